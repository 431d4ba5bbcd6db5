"""The node that a backend gets wrong is the node that is named: no ancestor of it, and none that it spoils."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from latentrt.engines import bisect as bisect_module
from latentrt.engines.backend import Report, no_report
from latentrt.engines.bisect import bisect
from latentrt.engines.bundle import Bundle
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError
from latentrt.engines.fake_backend import BACKEND as FAKE
from latentrt.engines.golden import GoldenCase, golden_cases
from latentrt.engines.key import EngineKey
from latentrt.engines.onnxruntime_backend import BACKEND, OnnxRuntimeEngine, _options
from latentrt.engines.options import DEFAULTS


class Breaks:
    """Compiles one node wrongly: what it gives is `factor` times too large. A real engine of the changed graph."""

    name = "onnxruntime"
    options = DEFAULTS
    obstacle = BACKEND.obstacle

    def __init__(self, tensor: str, factor: float = 1.01, only_if_fused: str | None = None) -> None:
        self._tensor, self._factor, self._only_if_fused = tensor, factor, only_if_fused
        self.builds = 0

    def key(self, bundle: Bundle, component: str) -> EngineKey:
        return BACKEND.key(bundle, component)

    def build(self, bundle: Bundle, component: str, folder: Path, report: Report = no_report) -> None:
        self.builds += 1
        model = onnx.load(bundle.graph(component))
        marked = {value.name for value in model.graph.output}
        if self._only_if_fused not in marked:
            node = next(n for n in model.graph.node if self._tensor in n.output)
            node.output[list(node.output).index(self._tensor)] = "right"
            at = list(model.graph.node).index(node) + 1
            scale = onnx.numpy_helper.from_array(np.array(self._factor, np.float32), "factor")
            model.graph.initializer.append(scale)
            model.graph.node.insert(at, onnx.helper.make_node("Mul", ["right", "factor"], [self._tensor]))
        onnx.save(model, folder / "wrong.onnx")

    def open(self, bundle: Bundle, component: str, folder: Path | None) -> Engine:
        assert folder is not None
        return OnnxRuntimeEngine(bundle, component, self.key(bundle, component), folder / "wrong.onnx", _options())


@pytest.fixture
def case(opened: Bundle) -> GoldenCase:
    return golden_cases(opened, "unet")[0]


def silent(line: str) -> None:
    pass


@pytest.mark.parametrize("marks", [1, 2, 32])
@pytest.mark.parametrize("tensor", ["convolved", "time", "mean", "text", "total", "out_sample"])
def test_the_broken_node_is_named(
    opened: Bundle, case: GoldenCase, tensor: str, marks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bisect_module, "MARKS", marks)
    factor = 1e3 if tensor == "time" else 1.01  # of a thousandth of the timestep: 1 % of it is within the threshold
    backend, before = Breaks(tensor, factor), sorted(opened.root.rglob("*"))
    found = bisect(backend, opened, "unet", case, built=True, report=silent)
    assert found is not None
    model = onnx.load(opened.graph("unet"), load_external_data=False)
    node = next(n for n in model.graph.node if tensor in n.output)
    assert (found.tensor, found.op, found.node) == (tensor, node.op_type, node.name)
    if tensor != "out_sample":
        assert found.difference.relative_l2 == pytest.approx(factor - 1, rel=1e-3)
    assert found.builds == backend.builds
    assert f"({node.op_type}), tensor {tensor}" in str(found)
    assert sorted(opened.root.rglob("*")) == before  # nothing is left in the bundle


def test_nan_is_found_where_it_begins(opened: Bundle, case: GoldenCase) -> None:
    found = bisect(Breaks("time", np.nan), opened, "unet", case, built=True, report=silent)
    assert found is not None
    assert (found.tensor, found.difference.finding) == ("time", "NaN")
    assert "tensor time of 1x1x1x1: NaN" in str(found)


def test_an_error_that_marking_undoes_is_not_blamed_on_a_node(opened: Bundle, case: GoldenCase) -> None:
    backend = Breaks("total", only_if_fused="convolved")
    assert bisect(backend, opened, "unet", case, built=True, report=silent) is None


def test_an_engine_that_is_right_departs_nowhere(opened: Bundle, case: GoldenCase) -> None:
    for built in (True, False):
        assert bisect(BACKEND, opened, "unet", case, built=built, report=silent) is None


def test_an_engine_opened_from_the_graph_is_not_built(opened: Bundle, case: GoldenCase) -> None:
    """The fake one, which has no inside, says what it cannot do."""
    with pytest.raises(EngineError):
        bisect(FAKE, opened, "unet", case, built=True, report=silent)


def test_a_bundle_that_may_not_be_written_to_is_searched_elsewhere(
    opened: Bundle, case: GoldenCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Path] = []

    def refused_in_the_bundle(make: Callable[..., object]) -> Callable[..., object]:
        def maybe(dir: Path | None = None, **options: str) -> object:  # noqa: A002 - tempfile's word
            if dir is not None and Path(dir).is_relative_to(opened.root):
                places.append(dir)
                raise PermissionError(dir)
            return make(dir=dir, **options)

        return maybe

    for name in ("TemporaryDirectory", "NamedTemporaryFile"):
        monkeypatch.setattr(bisect_module.tempfile, name, refused_in_the_bundle(getattr(tempfile, name)))
    found = bisect(Breaks("mean"), opened, "unet", case, built=True, report=silent)
    assert found is not None
    assert found.tensor == "mean"
    assert set(places) == {opened.root / "onnx"}
