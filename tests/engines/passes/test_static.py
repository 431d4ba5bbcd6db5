"""Static graphs answer as before, with fewer nodes and no shape left to compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from latentrt.engines.bundle import Bundle
from latentrt.engines.passes.prepared import prepare
from latentrt.engines.passes.reading import read_model
from latentrt.engines.passes.static import make_static
from latentrt.engines.tensor import resolve_shape

SHAPES = {
    "text_encoder": {"rows": 3},
    "unet": {"rows": 2, "height": 2, "width": 3, "tokens": 154},
    "vae_encoder": {"rows": 1, "height": 5, "width": 8},
    "vae_decoder.kl-f8": {"rows": 1, "height": 7, "width": 8},
}


def answers(graph: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, feeds)
    return found


@pytest.mark.parametrize("component", SHAPES)
def test_the_answers_are_those_of_the_free_graph(demo_bundle: Path, tmp_path: Path, component: str) -> None:
    bundle, bound = Bundle.open(demo_bundle), SHAPES[component]
    rng = np.random.default_rng(0)
    feeds = {
        spec.name: rng.standard_normal(resolve_shape(spec.shape, bound)).astype(spec.dtype)
        for spec in bundle.component(component).inputs
    }
    static = prepare(bundle.graph(component), tmp_path / "graph.onnx", bound=bound, half=None)
    for found, expected in zip(answers(static, feeds), answers(bundle.graph(component), feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # other fusions sum in another order


@pytest.mark.parametrize("component", SHAPES)
def test_no_dimension_is_free_and_no_shape_is_computed(demo_bundle: Path, component: str) -> None:
    model = read_model(Bundle.open(demo_bundle).graph(component))
    nodes, shapes = len(model.graph), sum(node.op_type == "Shape" for node in model.graph)
    assert make_static(model, SHAPES[component])
    values = [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]
    assert all(value.shape is not None and value.shape.is_static() for value in values)
    assert not any(node.op_type == "Shape" for node in model.graph)
    if shapes:
        assert len(model.graph) <= nodes - 2 * shapes  # with each Shape goes what was computed from it
    assert not make_static(model, SHAPES[component])


def test_the_unet_computes_nothing_but_its_network(demo_bundle: Path) -> None:
    model = read_model(Bundle.open(demo_bundle).graph("unet"))
    make_static(model, SHAPES["unet"])
    litter = {
        "Shape",
        "Size",
        "Gather",
        "Expand",
        "ConstantOfShape",
        "Range",
        "Constant",
        "Identity",
        "Squeeze",
        "Where",
    }
    assert not litter.intersection(node.op_type for node in model.graph)


def test_a_dimension_that_says_more_than_a_product_stays_unknown() -> None:
    value = ir.Value(
        name="x", shape=ir.Shape(["rows", "height + 1", "2*height"]), type=ir.TensorType(ir.DataType.FLOAT)
    )
    node = ir.node("Relu", [value])
    graph = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 23})
    make_static(ir.Model(graph, ir_version=10), {"rows": 2, "height": 3})
    assert [d if isinstance(d, int) else d.value for d in value.shape or ()] == [2, None, 6]
