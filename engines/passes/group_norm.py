"""GroupNormalization -> an InstanceNormalization, each group as one channel, between two Reshapes.

Opset 20 has no other form of it. ONNX Runtime's CPU has no kernel for the operator, and writes each out in 29 nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from .writing import Writing, given, shape_of


def to_instance_norm(model: ir.Model) -> bool:
    """Rewrite each GroupNormalization of a model in place; returns whether it changed."""
    nodes = [node for node in model.graph if node.op_type == "GroupNormalization"]
    for node in nodes:
        write = Writing(node)
        write.replace(instance_normalization(node, write))
    if nodes:
        RemoveUnusedNodesPass()(model)  # and the weights that nothing takes any more
    return bool(nodes)


def instance_normalization(node: ir.Node, write: Writing) -> ir.Value:
    """The nodes of a GroupNormalization: (rows, channels, ...) -> (rows, groups, rest), normalised, and back."""
    x, scale, bias = map(given, node.inputs)
    groups = node.attributes.get_int("num_groups")
    shape = shape_of(x)
    grouped = write.node("Reshape", x, write.lengths(0, groups, -1))
    normal = write.node(
        "InstanceNormalization",
        grouped,
        write.constant(np.ones(groups)),
        write.constant(np.zeros(groups)),
        epsilon=node.attributes.get_float("epsilon", 1e-5),
    )
    known = all(isinstance(length, int) for length in shape)
    lengths = write.lengths(*shape) if known else write.node("Shape", x, dtype=ir.DataType.INT64)
    back = write.node("Reshape", normal, lengths, dtype=normal.dtype)
    each = (-1, *(1 for _ in shape[2:]))  # (channels,) -> (channels, 1, 1)
    scaled = write.node("Mul", back, _reshaped(write, scale, each))
    return write.node("Add", scaled, _reshaped(write, bias, each))


def _reshaped(write: Writing, value: ir.Value, shape: Sequence[int]) -> ir.Value:
    if value.const_value is None:
        return write.node("Reshape", value, write.lengths(*shape))
    return write.constant(value.const_value.numpy().reshape(shape))
