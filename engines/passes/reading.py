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
            place = graph.parent / tensor.location
            value.const_value = ir.ExternalTensor(
                place, tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=tensor.name, base_dir=""
            )
    return model
