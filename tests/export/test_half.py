"""fp16 graphs: how far the answers move beside PyTorch's own fp16, and what an export says of a weight beyond it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import CheckpointError
from latentrt.engines.golden import GoldenCase, golden_cases
from latentrt.engines.passes.half import FLOAT, to_half
from latentrt.engines.passes.reading import read_model
from latentrt.export.onnx_export import halve
from latentrt.export.source import SourceModel
from latentrt.export.wrappers import network_loaders


@pytest.mark.parametrize("component", ["text_encoder", "unet"])
def test_rounding_at_every_node_costs_little_more_than_pytorch_in_fp16(
    tiny_bundle: Bundle, tiny_model: SourceModel, component: str, tmp_path: Path
) -> None:
    """ONNX's own evaluator rounds each node's result to fp16; engines fuse nodes and round less often."""
    model = read_model(tiny_bundle.graph(component))
    to_half(model.graph)
    ir.save(model, tmp_path / "half.onnx", external_data="half.data")
    case = golden_cases(tiny_bundle, component)[0]
    answer, *_ = ReferenceEvaluator(onnx.load(tmp_path / "half.onnx")).run(None, dict(case.inputs))  # type: ignore[misc]
    exact = case.outputs[tiny_bundle.component(component).outputs[0].name]
    assert _relative(answer, exact) <= 2 * _relative(_pytorch_half(tiny_model, component, case), exact)


def _pytorch_half(model: SourceModel, component: str, case: GoldenCase) -> NDArray[np.float32]:
    network = network_loaders(model)[component].load()
    inputs = [torch.from_numpy(case.inputs[spec.name]) for spec in network.inputs]
    halves = [x.half() if x.dtype == torch.float32 and x.ndim > 1 else x for x in inputs]  # timesteps stay exact
    with torch.no_grad():
        return _first(network.module.half()(*halves)).float().numpy()


def _first(answer: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return answer[0] if isinstance(answer, tuple) else answer


def _relative(answer: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(answer - exact) / np.linalg.norm(exact))


def test_an_export_names_a_weight_beyond_fp16() -> None:
    x = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(FLOAT))
    tensor = ir.tensor(np.float32([1, 7e4]))
    big = ir.Value(name="big", shape=ir.Shape([2]), type=ir.TensorType(FLOAT), const_value=tensor)
    graph = ir.Graph([x], [], nodes=[ir.node("Mul", [x, big])], initializers=[big], opset_imports={"": 23})
    with pytest.raises(CheckpointError, match=r"unet: big holds 7e\+04, and fp16 ends at 65504: export with"):
        halve(graph, "unet")
