"""The Markdown report: valid tables, nothing hidden, nothing from outside that means anything to Markdown."""

from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt

from latentrt.benchmarks.report.markdown import all_tables, escaped, markdown
from latentrt.benchmarks.report.tables import steps_per_second
from latentrt.benchmarks.trial.results import Accuracy, Conditions, Results
from support.trials import HOSTILE, contestant, failed, results, whole

EMPTY = results({"latentrt": failed("it crashed")}, settings={"batches": (), "concurrency": ()})
ALONE = results({"latentrt": contestant(1.0, batches=(), concurrency=(), parts={}, components={})})
HOSTILE_TRIAL = results(
    {"torch": contestant(2.0), "latentrt": failed(HOSTILE)},
    settings={"prompts": (HOSTILE, "")},
    conditions=Conditions(others=1.5, worst_others=2.0, noisy=(HOSTILE,)),
)


def rendered(found: Results) -> str:
    return MarkdownIt("commonmark").enable("table").render(markdown(found))


@pytest.mark.parametrize("found", [whole(), EMPTY, ALONE, HOSTILE_TRIAL])
def test_every_table_is_valid(found: Results) -> None:
    tables = all_tables(found)
    page = rendered(found)
    assert page.count("<table>") == len(tables)
    for table in tables:
        assert all(len(row) == len(table.head) for row in table.rows), table.caption
    cells = sum(len(table.head) * (len(table.rows) + 1) for table in tables)
    assert len(re.findall(r"<t[hd]\b", page)) == cells


def test_a_failed_contestant_is_named_with_its_reason() -> None:
    page = markdown(whole())
    assert re.search(r"^\| openvino-genai \| failed \|", page, re.MULTILINE)
    assert "pip could not install it: no matching distribution" in page


def test_what_comes_from_outside_stays_text() -> None:
    page = rendered(HOSTILE_TRIAL)
    assert "<script" not in page
    assert "<a " not in page
    assert "<em>" not in page
    assert page.count("&lt;script&gt;alert(") >= 3  # prompt, reason, and what made it noisy
    assert escaped("a|b\nc <i>") == "a\\|b c &lt;i&gt;"


def test_a_noisy_run_says_so_first_and_a_quiet_one_does_not() -> None:
    noisy = whole(conditions=Conditions(others=1.5, worst_others=2.0, noisy=("others took 1.5 cores",)))
    assert "noisy" in markdown(noisy).splitlines()[2]
    assert "This run was noisy" not in markdown(whole())


def test_ratios_are_to_the_first_and_errors_stand_beside_the_floor() -> None:
    page = markdown(whole())
    overview = page.split("## At a glance")[1].split("##")[0]
    assert "over torch |" in overview
    rows = {row.split(" | ")[0].strip("| "): row.split(" | ") for row in overview.splitlines() if row.startswith("| ")}
    assert rows["torch"][3] == "1.00"
    assert rows["latentrt"][3] == "0.500"
    assert rows["torch-bf16"][5] == "1 (the floor)"
    assert rows["latentrt"][5] == "0.0010"
    assert "The noise floor is the distance of torch-bf16 from torch." in page


def test_without_torch_there_is_no_floor_and_the_reference_is_the_bundle() -> None:
    golden = Accuracy(reference="golden", note="it does not tell its steps")
    page = markdown(results({"latentrt": contestant(1.0, accuracy=golden)}))
    assert "No noise floor was measured." in page
    assert "it does not tell its steps" in page


def test_steps_a_second_leave_the_decoder_out() -> None:
    table = markdown(whole()).split("## Latency, denoise+decode")[1].split("##")[0]
    [head, torch] = [line.split(" | ") for line in table.splitlines() if line.startswith(("| contestant", "| torch |"))]
    assert torch[head.index("steps/s")] == "2.50"  # four steps in the 1.6 s that the decoder's 0.2 s leave
    quick = results({"latentrt": contestant(1.0, parts={})})
    assert steps_per_second(quick, "latentrt") is None
