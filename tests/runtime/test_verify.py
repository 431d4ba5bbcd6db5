"""The demo bundle proves itself; a layer computed wrongly is measured, named, remembered, and not opened again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from latentrt import Pipeline
from latentrt.engines import backend as backends
from latentrt.engines import store
from latentrt.engines.backend import Report, no_report
from latentrt.engines.bundle import Bundle
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError
from latentrt.engines.key import EngineKey
from latentrt.engines.onnxruntime_backend import BACKEND, OnnxRuntimeEngine, _options
from latentrt.engines.options import DEFAULTS
from latentrt.engines.trajectory import Trajectory, load_trajectories
from latentrt.engines.verification import Check
from latentrt.runtime import denoiser
from latentrt.runtime import replay as replay_module
from latentrt.runtime.replay import replay
from latentrt.runtime.verify import silent, verify_bundle

SIZE = (192, 64)  # of which the demo records nothing
RECORD = "golden/trajectory.safetensors"


class WrongLayer:
    """ONNX Runtime, as a library would be that computes with a wrong weight: one layer's are 5 % too large."""

    name = "onnxruntime"
    options = DEFAULTS
    obstacle = BACKEND.obstacle

    def __init__(self, scratch: Path) -> None:
        self.node: onnx.NodeProto | None = None
        self._scratch = scratch

    def key(self, bundle: Bundle, component: str) -> EngineKey:
        return BACKEND.key(bundle, component)

    def build(self, bundle: Bundle, component: str, folder: Path, report: Report = no_report) -> None:
        BACKEND.build(bundle, component, folder, report)

    def open(self, bundle: Bundle, component: str, folder: Path | None) -> Engine:
        if component != "unet":
            return BACKEND.open(bundle, component, folder)
        model = onnx.load(bundle.graph(component))
        layers = [node for node in model.graph.node if node.op_type == "Conv"]
        self.node = layers[len(layers) * 2 // 3]
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == self.node.input[1])
        weight.CopyFrom(onnx.numpy_helper.from_array(1.05 * onnx.numpy_helper.to_array(weight), weight.name))
        onnx.save(model, self._scratch / "wrong.onnx")
        key = self.key(bundle, component)
        return OnnxRuntimeEngine(bundle, component, key, self._scratch / "wrong.onnx", _options())


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may write into; no links, behind which onnx reads no weights."""
    return Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def pipeline(demo_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.open(demo_bundle) as opened:
        yield opened


def compared(pipeline: Pipeline, precision: str) -> list[Check]:
    return [check for one in replay(pipeline, RECORD, silent, precision) for check in one.checks]


def failing(checks: list[Check]) -> set[str]:
    return {check.part for check in checks if not check.passed}


def test_the_demo_bundle_proves_itself(bundle: Path) -> None:
    lines: list[str] = []
    found = verify_bundle(bundle, sizes=[SIZE], report=lines.append)
    assert found.passed
    assert failing(found.checks) == set()
    assert found.departures is None
    components = Bundle.open(bundle).manifest.components
    trajectories = {"trajectory guidance-7.5", "trajectory guidance-1"}
    assert {check.part for check in found.checks} == {*components, *trajectories}
    for part in trajectories:
        cases = [check.case for check in found.checks if check.part == part]
        assert cases == ["seed 0", *(f"step {i} of 8" for i in range(1, 9)), "picture"]
    derived = {(check.part, check.case) for check in found.checks if check.against == "derived"}
    assert {case for _, case in derived} == {"rows1-192x64", "rows2-192x64"}
    assert {part for part, _ in derived} == components.keys() - {"text_encoder"}
    assert all(check.threshold is not None and check.threshold.origin for check in found.checks)
    assert any("replaying" in line for line in lines)
    assert not (bundle / "engines").exists()  # nothing was built, nothing failed: nothing to remember


def test_a_wrong_layer_is_measured_named_remembered_and_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, wrong = Bundle.open(bundle), WrongLayer(tmp_path)
    built, _ = store.build(BACKEND, opened, "unet")
    with monkeypatch.context() as patched:
        patched.setattr(backends, "get_backend", lambda name, *_: wrong)
        found = verify_bundle(bundle, find_departure=True)
        assert not found.passed
        assert failing(found.checks) == {"unet", "trajectory guidance-7.5", "trajectory guidance-1"}
        assert found.departures is not None
        departure = found.departures[built.key.id]
        assert departure is not None
        assert wrong.node is not None
        assert (departure.node, departure.tensor, departure.op) == (wrong.node.name, wrong.node.output[0], "Conv")
        assert departure.builds <= 6  # among 548 nodes
        assert list(bundle.rglob(".*")) == []  # nothing is left of the search
    with pytest.raises(EngineError, match="engine of unet failed verification: out_sample of unet in rows"):
        Pipeline.open(bundle)
    with Pipeline.open(bundle, allow_unverified=True) as pipe:
        assert pipe.generate("a red star", num_inference_steps=1).facts[0]["allow_unverified"] == "yes"
    assert verify_bundle(bundle).passed  # by the right library
    verified = store.load_record(store.engine_folder(opened, built.key)).verification
    assert verified.checks == built.verification.checks + 20  # two trajectories of noise, 8 steps and a picture
    with Pipeline.open(bundle) as pipe:
        assert "allow_unverified" not in pipe.generate("a red star", num_inference_steps=1).facts[0]


def test_a_fault_of_the_runtime_is_caught_where_it_acts(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are right, guidance is not: only the guided trajectory parts, from its first step."""
    real = denoiser._guided

    def too_strong(output: np.ndarray, question: denoiser.Question) -> np.ndarray:
        guidance = question.conditioning.guidance
        if guidance is None:
            return real(output, question)
        negative, positive = np.split(output, 2)
        return negative + np.float32(guidance.scale * 1.01) * (positive - negative)

    monkeypatch.setattr(denoiser, "_guided", too_strong)
    checks = compared(pipeline, "fp32")
    assert failing(checks) == {"trajectory guidance-7.5"}
    first = next(check for check in checks if not check.passed)
    assert first.case == "step 1 of 8"


@pytest.mark.parametrize(("value", "finding"), [(np.nan, "NaN"), (np.inf, "Inf"), (0.0, "constant")])
def test_a_picture_that_is_none_is_named(
    pipeline: Pipeline, value: float, finding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(latents: np.ndarray) -> np.ndarray:
        return np.full((1, 3, 128, 128), value, np.float32)

    monkeypatch.setattr(pipeline, "decode", decode)
    bad = [check for check in compared(pipeline, "fp32") if not check.passed]
    assert [check.case for check in bad] == ["picture", "picture"]
    assert {check.difference.finding for check in bad} == {finding}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_an_engine_of_reduced_precision_is_held_to_pytorchs_own_run_in_it(pipeline: Pipeline, precision: str) -> None:
    checks = compared(pipeline, precision)
    assert failing(checks) == set()
    for check in checks:
        assert check.threshold is not None
        assert check.tensor == "noise" or f"PyTorch's own {precision} error" in check.threshold.origin


def test_without_a_recorded_floor_guided_latents_have_no_limit(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are still looked at for NaN."""

    def without_floors(bundle: Bundle, path: str) -> list[Trajectory]:
        found = load_trajectories(bundle, path)
        return [replace(one, facts=msgspec.structs.replace(one.facts, floor={})) for one in found]

    monkeypatch.setattr(replay_module, "load_trajectories", without_floors)
    checks = compared(pipeline, "bf16")
    limited = {(check.part, check.tensor) for check in checks if check.limit is not None}
    assert limited == {
        ("trajectory guidance-7.5", "noise"),
        ("trajectory guidance-1", "noise"),
        ("trajectory guidance-1", "latents"),
    }
    assert failing(checks) == set()
