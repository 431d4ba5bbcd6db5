"""Half graphs: what is halved and what is not. How far answers move is held against PyTorch in tests/export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from latentrt.engines.bundle import Bundle
from latentrt.engines.passes.half import BFLOAT, FLOAT, HALF, HALVES, to_half
from latentrt.engines.passes.reading import read_model

COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8")
HEAVY = {"Conv", "MatMul", "Gemm", "Attention", "GroupNormalization"}
each_component = pytest.mark.parametrize("component", COMPONENTS)
each_half = pytest.mark.parametrize("half", [HALF, BFLOAT], ids=HALVES)


def halved(bundle: Path, component: str, half: ir.DataType) -> ir.Model:
    model = read_model(Bundle.open(bundle).graph(component))
    to_half(model.graph, half)
    return model


@each_half
@each_component
def test_only_inputs_outputs_and_sinusoids_stay_fp32(demo_bundle: Path, component: str, half: ir.DataType) -> None:
    graph = halved(demo_bundle, component, half).graph
    assert all(value.dtype != half for value in (*graph.inputs, *graph.outputs))
    sinusoids = [node for node in graph if node.op_type in {"Sin", "Cos"}]
    assert len(sinusoids) == (2 if component == "unet" else 0)
    assert all(node.outputs[0].dtype == FLOAT for node in sinusoids)
    heavy = [node for node in graph if node.op_type in HEAVY]
    assert heavy
    assert {value.dtype for node in heavy for value in (*node.inputs[:2], *node.outputs) if value} == {half}


@each_half
@each_component
def test_the_half_graph_is_valid_onnx(demo_bundle: Path, component: str, half: ir.DataType, tmp_path: Path) -> None:
    ir.save(halved(demo_bundle, component, half), tmp_path / "half.onnx", external_data="half.data")
    onnx.checker.check_model(str(tmp_path / "half.onnx"), full_check=True)


@each_half
def test_weights_are_rounded_to_the_nearest(demo_bundle: Path, half: ir.DataType) -> None:
    exact = read_model(Bundle.open(demo_bundle).graph("text_encoder")).graph.initializers
    rounded = halved(demo_bundle, "text_encoder", half).graph.initializers
    bits = {HALF: 11, BFLOAT: 8}[half]
    changed = [name for name, value in rounded.items() if value.dtype == half]
    assert len(changed) > 20
    for name in changed:
        before, after = (held[name].const_value.numpy().astype(np.float32) for held in (exact, rounded))
        normal = np.abs(before) >= 2.0**-14  # below, fp16 keeps fewer bits
        np.testing.assert_allclose(after[normal], before[normal], rtol=2.0**-bits)


def one_product(weight: float) -> ir.Graph:
    x = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(FLOAT))
    tensor = ir.tensor(np.float32([1, weight]))
    big = ir.Value(name="big", shape=ir.Shape([2]), type=ir.TensorType(FLOAT), const_value=tensor)
    node = ir.node("Mul", [x, big])
    node.outputs[0].dtype = FLOAT
    return ir.Graph([x], node.outputs, nodes=[node], initializers=[big], opset_imports={"": 23})


def test_a_weight_beyond_fp16_is_named_and_fits_bf16() -> None:
    with pytest.raises(ValueError, match=r"big holds 7e\+04, and fp16 ends at 65504"):
        to_half(one_product(7e4))
    graph = one_product(7e4)
    to_half(graph, BFLOAT)
    assert graph.initializers["big"].dtype == BFLOAT
