"""An ONNX file of a bundle as a graph that passes can rewrite; its weights stay on disk until they are needed."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir


def read_model(graph: Path) -> ir.Model:
    """Read a graph that `Bundle.graph` gave: its weights are hashed, and known to lie in the bundle.

    `onnx_ir` refuses weights behind a hard link, which a bundle that was copied by links has. It leaves that to whoever
    gives a tensor's whole path.
    """
    model = ir.load(graph)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = _placed(tensor, graph.parent / tensor.location)
    return model


def beside(tensor: ir.ExternalTensor) -> ir.ExternalTensor:
    """A weight that `read_model` placed, named by its file alone: it lies beside the graph."""
    return _placed(tensor, Path(tensor.location).name)


def _placed(tensor: ir.ExternalTensor, place: Path | str) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        place, tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=tensor.name, base_dir=""
    )
