"""Attention over heads laid apart -> ONNX Runtime's MultiHeadAttention, whose CPU kernel works tile by tile.

The standard operator's kernel writes all scores down, rows x heads x queries x keys: 1.1 GB for the first level of
Stable Diffusion 1.5 with two rows at 512x512.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

DOMAIN = "com.microsoft"
_HEADS_APART = (0, 2, 1, 3)  # (rows, tokens, heads, width) -> (rows, heads, tokens, width), and back


def to_multi_head(model: ir.Model) -> bool:
    """Rewrite each Attention without a mask, with the reshapes around it, in place; returns whether it changed.

    Queries, keys and values then are (rows, tokens, heads * width), as the projections give them.
    """
    fused = [_fuse(model.graph, node) for node in tuple(model.graph) if node.op_type == "Attention"]
    if any(fused):
        model.graph.opset_imports[DOMAIN] = 1
        RemoveUnusedNodesPass()(model)
    return any(fused)


def _fuse(graph: ir.Graph, attention: ir.Node) -> bool:
    joined = [_before_heads(value) for value in attention.inputs]
    heads = _heads(attention.inputs[0])
    output = _after_heads(attention)
    if len(joined) != 3 or None in joined or heads is None or output is None or not _is_plain(attention):
        return False
    attributes = {"num_heads": heads}
    if "scale" in attention.attributes:
        attributes["scale"] = attention.attributes["scale"].as_float()
    fused = ir.node("MultiHeadAttention", joined, attributes, domain=DOMAIN, name=attention.name)
    [result] = fused.outputs
    name, result.shape, result.type = output.name, output.shape, output.type
    last = output.producer()
    assert last is not None
    graph.insert_before(last, fused)
    ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
    graph.remove(last, safe=True)
    output.name, result.name = f"{name}.replaced", name
    return True


def _is_plain(attention: ir.Node) -> bool:
    """Whether it has one output, as many heads for keys as for queries, and neither causality nor a cap."""
    attributes = attention.attributes
    unset = all(not attributes.get_int(name, 0) for name in ("is_causal", "qk_matmul_output_mode"))
    same = _heads(attention.inputs[0]) == _heads(attention.inputs[1])
    return len(attention.outputs) == 1 and unset and same and not attributes.get_float("softcap", 0.0)


def _heads(value: ir.Value | None) -> int | None:
    shape = None if value is None else value.shape
    return shape[1] if shape is not None and len(shape) == 4 and isinstance(shape[1], int) else None


def _before_heads(value: ir.Value | None) -> ir.Value | None:
    """(rows, tokens, heads * width), where `value` is that reshaped and transposed."""
    transpose = _producer(value, "Transpose")
    reshape = _producer(transpose.inputs[0], "Reshape") if transpose is not None and _sets_apart(transpose) else None
    source = None if reshape is None else reshape.inputs[0]
    return source if source is not None and source.shape is not None and len(source.shape) == 3 else None


def _after_heads(attention: ir.Node) -> ir.Value | None:
    """(rows, tokens, heads * width) that becomes of the answer, where nothing else does."""
    transpose = _only_user(attention.outputs, "Transpose")
    reshape = _only_user(transpose.outputs, "Reshape") if transpose is not None and _sets_apart(transpose) else None
    output = None if reshape is None else reshape.outputs[0]
    return output if output is not None and output.shape is not None and len(output.shape) == 3 else None


def _sets_apart(transpose: ir.Node) -> bool:
    return tuple(transpose.attributes["perm"].as_ints()) == _HEADS_APART


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type else None


def _only_user(outputs: Sequence[ir.Value], op_type: str) -> ir.Node | None:
    users = [use.node for output in outputs for use in output.uses()]
    if any(output.is_graph_output() for output in outputs):
        return None
    return users[0] if len(users) == 1 and users[0].op_type == op_type else None
