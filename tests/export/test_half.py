"""fp16 graphs: what is halved and what is not, and how far the answers move beside PyTorch's own fp16."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from latentrt.engines.bundle import Bundle
from latentrt.engines.golden import GoldenCase, golden_cases
from latentrt.export.half import FLOAT, HALF, to_half
from latentrt.export.source import SourceModel
from latentrt.export.wrappers import network_loaders

COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8")
each_component = pytest.mark.parametrize("component", COMPONENTS)


def _half(bundle: Bundle, component: str) -> ir.Model:
    model = ir.load(bundle.graph(component))
    to_half(model.graph)
    return model


@each_component
def test_only_inputs_outputs_and_sinusoids_stay_fp32(tiny_bundle: Bundle, component: str) -> None:
    graph = _half(tiny_bundle, component).graph
    assert all(value.dtype != HALF for value in (*graph.inputs, *graph.outputs))
    sinusoids = [node for node in graph if node.op_type in {"Sin", "Cos"}]
    assert len(sinusoids) == (2 if component == "unet" else 0)
    assert all(node.outputs[0].dtype == FLOAT for node in sinusoids)
    heavy = [node for node in graph if node.op_type in {"Conv", "MatMul", "Gemm", "Attention", "GroupNormalization"}]
    assert heavy
    assert {value.dtype for node in heavy for value in (*node.inputs[:2], *node.outputs) if value} == {HALF}


@each_component
def test_the_half_graph_is_valid_onnx(tiny_bundle: Bundle, component: str, tmp_path: Path) -> None:
    ir.save(_half(tiny_bundle, component), tmp_path / "half.onnx", external_data="half.data")
    onnx.checker.check_model(str(tmp_path / "half.onnx"), full_check=True)


@pytest.mark.parametrize("component", ["text_encoder", "unet"])
def test_rounding_at_every_node_costs_little_more_than_pytorch_in_fp16(
    tiny_bundle: Bundle, tiny_model: SourceModel, component: str, tmp_path: Path
) -> None:
    """ONNX's own evaluator rounds each node's result to fp16; engines fuse nodes and round less often."""
    ir.save(_half(tiny_bundle, component), tmp_path / "half.onnx", external_data="half.data")
    case = golden_cases(tiny_bundle, component)[0]
    (answer,) = ReferenceEvaluator(onnx.load(tmp_path / "half.onnx")).run(None, dict(case.inputs))  # type: ignore[misc]
    (exact,) = case.outputs.values()
    assert _relative(answer, exact) <= 2 * _relative(_pytorch_half(tiny_model, component, case), exact)


def _pytorch_half(model: SourceModel, component: str, case: GoldenCase) -> NDArray[np.float32]:
    network = network_loaders(model)[component]()
    inputs = [torch.from_numpy(case.inputs[spec.name]) for spec in network.inputs]
    halves = [x.half() if x.dtype == torch.float32 and x.ndim > 1 else x for x in inputs]  # timesteps stay exact
    with torch.no_grad():
        return copy.deepcopy(network.module).half()(*halves).float().numpy()  # type: ignore[no-any-return]


def _relative(answer: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(answer - exact) / np.linalg.norm(exact))


def test_a_weight_beyond_fp16_is_named() -> None:
    x = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(FLOAT))
    big = ir.Value(
        name="big", shape=ir.Shape([2]), type=ir.TensorType(FLOAT), const_value=ir.tensor(np.float32([1, 7e4]))
    )
    node = ir.node("Mul", [x, big])
    node.outputs[0].dtype = FLOAT
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[big], opset_imports={"": 23})
    with pytest.raises(OverflowError, match=r"big holds 7e\+04, and fp16 ends at 65504"):
        to_half(graph)
