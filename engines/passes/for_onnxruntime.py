"""What a build for ONNX Runtime's CPU rewrites before that optimises the graph itself."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from .group_norm import to_instance_norm
from .multi_head import to_multi_head
from .reading import beside, read_model


def rewrite(model: ir.Model) -> None:
    """Put a model in the operators that ONNX Runtime's CPU has kernels for, in place."""
    to_multi_head(model)
    to_instance_norm(model)


def onnxruntime_bytes(graph: Path) -> bytes:
    """A graph of a bundle after `rewrite`, as a serialized model.

    Its weights stay where they are, beside `graph`, by their file's name.
    """
    model = read_model(graph)
    rewrite(model)
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = beside(value.const_value)
    return ir.to_proto(model).SerializeToString()  # type: ignore[no-any-return]
