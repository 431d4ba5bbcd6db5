"""A trial's block for the README has a column for what was measured, and a line for who failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from latentrt.benchmarks import readme
from latentrt.benchmarks.readme_bench import bench_block, curve, curves_block, table
from latentrt.benchmarks.trial.results import Accuracy, write_results
from support.trials import accuracy, contestant, failed, results, whole


def columns(head: tuple[str, ...], rows: tuple[tuple[str, ...], ...], name: str) -> dict[str, str]:
    at = next(i for i, title in enumerate(head) if title.startswith(name))
    return {row[0]: row[at] for row in rows}


def test_it_has_what_the_issue_asks_of_it() -> None:
    found = table(whole())
    assert columns(found.head, found.rows, "of torch") == {"torch": "1.00", "torch-bf16": "0.600", "latentrt": "0.500"}
    assert columns(found.head, found.rows, "over the floor")["latentrt"] == "0.0010"
    assert columns(found.head, found.rows, "adherence")["latentrt"] == "92.0%"
    for name in ("picture of 4 steps, s", "95 % interval", "peak memory", "installed", "error, relative L2"):
        assert columns(found.head, found.rows, name)["latentrt"] != "–"
    assert "`openvino-genai` was not measured: pip could not install it" in bench_block(whole(), "x.json")


def test_a_trial_of_single_calls_has_no_columns_of_pictures() -> None:
    calls = Accuracy(reference="torch", components=accuracy(1e-3).components)
    single = {"latency": {}, "parts": {}, "quality": {}, "batches": (), "concurrency": (), "accuracy": calls}
    found = table(
        results({"torch": contestant(2.0, **{**single, "accuracy": None}), "latentrt": contestant(1, **single)})
    )
    assert not any(title.startswith("picture") for title in found.head)
    assert "adherence" not in found.head
    assert columns(found.head, found.rows, "UNet call") == {"torch": "200", "latentrt": "100"}
    assert columns(found.head, found.rows, "error") == {"torch": "–", "latentrt": "5.5e-04"}


def test_without_torch_there_is_no_ratio() -> None:
    found = table(results({"latentrt": contestant(1.0)}))
    assert "of torch" not in found.head
    assert "No noise floor was measured." in bench_block(results({"latentrt": contestant(1.0)}), "x.json")


def test_all_failed_is_still_a_block() -> None:
    block = bench_block(results({"torch": failed("a | b <script>")}), "x.json")
    assert "`torch` was not measured: a \\| b &lt;script&gt;" in block


def test_a_marked_block_is_filled_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(whole(), tmp_path / "bench-demo.json")
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    page = readme.render(
        "a\n\n<!-- results: bench-demo -->\n<!-- end -->\n\nb\n<!-- results: bench-other -->\n<!-- end -->\n"
    )
    assert "benchmarks/results/bench-demo.json" in page
    assert "Not measured yet." in page.split("bench-other")[1]
    rendered = MarkdownIt("commonmark").enable("table").render(page)
    assert rendered.count("<table>") == 1
    assert rendered.count("<tr>") == 4
    assert readme.render(page) == page


def test_curves_have_a_row_for_each_count_and_a_column_for_who_has_points() -> None:
    found = curve(results({"torch": contestant(2.0), "latentrt": failed("no")}), "clients", "concurrency")
    assert found is not None
    assert found.head == ("clients", "torch")
    assert found.rows == (("1", "0.500 / 2.10"), ("4", "0.500 / 8.40"))
    assert curve(results({"torch": contestant(2.0, batches=())}), "pictures at once", "batches") is None
    page = MarkdownIt("commonmark").enable("table").render(curves_block(whole(), "x.json"))
    assert page.count("<table>") == 2
