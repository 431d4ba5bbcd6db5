"""The safety checker in opset 20, which the demo model has not: the same answers."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest

from latentrt.engines.bundle import Bundle
from latentrt.engines.golden import golden_cases
from latentrt.engines.metrics import difference
from latentrt.engines.passes.prepared import prepare


@pytest.mark.parametrize("component", ["safety_checker", "unet"])
def test_a_component_answers_as_before(tiny_bundle: Bundle, component: str, tmp_path: Path) -> None:
    graph = tiny_bundle.graph(component)
    old = prepare(graph, tmp_path / "graph.onnx", bound=None, half=None, old=True)
    onnx.checker.check_model(str(old), full_check=True)
    sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (old, graph)]
    for case in golden_cases(tiny_bundle, component)[:2]:
        found, expected = (session.run(None, dict(case.inputs)) for session in sessions)
        for one, other in zip(found, expected, strict=True):
            assert difference(one, other, data_range=2.0).relative_l2 <= 1e-5
