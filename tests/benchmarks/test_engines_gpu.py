"""The GPU script where there is no GPU: the same code with a very small network, and the contestants that run here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from latentrt.benchmarks.contestants.remote import Refused, Remote
from latentrt.benchmarks.engines_gpu import main
from latentrt.benchmarks.gpu_libraries import environment
from latentrt.benchmarks.random_model import SIZES, unet_teraflop, write_random_bundle
from latentrt.benchmarks.readme_tables import engines_gpu_table
from latentrt.engines.bundle import Bundle
from latentrt.engines.golden import golden_cases


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "bundle"
    write_random_bundle(folder, SIZES["tiny"], "cpu")
    return folder


def measured(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> dict[str, Any]:
    tiny = ["--device", "cpu", "--tiny", "--results", str(folder), "--rounds", "2", "--calls", "3", "--steps", "3"]
    monkeypatch.setattr(sys, "argv", ["engines_gpu", *tiny, *words])
    main()
    [file] = folder.iterdir()
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert {"protocol", "machine", "figures"} == result.keys()
    figures: dict[str, Any] = result["figures"]
    return figures


@pytest.mark.full
def test_the_bundle_records_the_calls_that_are_timed(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert [case.name for case in golden_cases(opened, "unet")] == [f"rows2-32x32-t{t}" for t in (1, 501, 981)]
    assert set(opened.component("unet").floor) == {"fp16", "bf16"}


@pytest.mark.full
def test_every_contestant_is_timed_compared_and_draws(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = measured(monkeypatch, tmp_path, "--bundle", str(bundle))
    assert figures["not run"] == {}
    assert set(figures["contestants"]) == {"torch fp32", "onnxruntime fp32"}
    for found in figures["contestants"].values():
        assert found["median, ms"] > 0
        assert found["calls"] == 6
        assert found["relative L2"] < 1e-5
        assert len(found["NaN or Inf"]) == 7
        assert not any(found["NaN or Inf"].values())
        assert found["picture"]["seconds"] > 0
    spent = figures["contestants"]["onnxruntime fp32"]["picture"]
    assert 0 < spent["loop overhead"] < 1 < spent["over engine calls"]
    assert figures["floor"]["TFLOP of a call"] > 0
    assert "CPUExecutionProvider" in figures["machine"]["onnxruntime"]
    assert capsys.readouterr().out.strip() == engines_gpu_table(figures).strip()


@pytest.mark.full
def test_what_cannot_run_is_named_with_its_reason(bundle: Path, tmp_path: Path) -> None:
    remote = Remote([sys.executable, "-m", "latentrt.benchmarks.gpu_worker"], tmp_path / "log", environment())
    with pytest.raises(Refused, match=r"BundleError: there is no bundle at .*nowhere"):
        remote.ask(60, contestant="onnxruntime fp32", device="cpu", size="tiny", bundle=str(tmp_path / "nowhere"))
    with pytest.raises(Refused, match=r"longer than the 0 s that were left"):
        remote.ask(0, contestant="torch fp32", device="cpu", size="tiny", bundle=str(bundle))  # imports torch first
    assert remote.ended


def test_a_call_of_the_true_size_is_1_6_teraflop() -> None:
    assert unet_teraflop(SIZES["full"]) == pytest.approx(1.6, rel=0.01)


@pytest.mark.full
def test_without_a_bundle_it_makes_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = measured(monkeypatch, tmp_path)
    assert figures["not run"] == {}
    assert figures["stages, s"]["export, beside torch.compile"] > 0


@pytest.mark.full
def test_time_that_is_too_short_leaves_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = measured(monkeypatch, tmp_path, "--seconds", "2")
    assert "took longer than" in figures["not run"]["export"]
