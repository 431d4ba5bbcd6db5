"""What a build for ONNX Runtime's CPU rewrites before that optimises the graph itself."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from .group_norm import to_instance_norm
from .multi_head import to_multi_head
from .reading import read_model


def rewrite(model: ir.Model) -> None:
    """Put a model in the operators that ONNX Runtime's CPU has kernels for, in place."""
    to_multi_head(model)
    to_instance_norm(model)
    RemoveUnusedNodesPass()(model)


def onnxruntime_bytes(graph: Path) -> bytes:
    """A graph of a bundle after `rewrite`, as a serialized model.

    Its weights stay where they are, beside `graph`, by their file's name.
    """
    model, stated = read_model(graph), ir.load(graph).graph.initializers
    rewrite(model)
    for name, value in model.graph.initializers.items():
        if name in stated:
            value.const_value = stated[name].const_value
    return ir.to_proto(model).SerializeToString()  # type: ignore[no-any-return]
