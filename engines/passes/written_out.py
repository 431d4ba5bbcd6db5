"""Opset 23 -> opset 20: what came in between is written out in older operators, for readers that end there.

TensorRT 10.3, JetPack's, is one: its parser knows no Attention, and takes the scales of GroupNormalization for one a
group, as opset 18 had them (github.com/NVIDIA/TensorRT/issues/4336). docs/graph.md has the sources.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from .group_norm import instance_normalization
from .writing import Writing, given, shape_of

OPSET, IR_VERSION = 20, 9  # of ONNX 1.15, which brought opset 20


def write_out(model: ir.Model) -> bool:
    """Rewrite a model in opset 20, in place; returns whether it changed.

    Attention becomes products and a softmax, GroupNormalization an InstanceNormalization between two Reshapes.

    Raises:
        NotImplementedError: opset 20 has no form of what a node asks for; it names the node.
    """
    graph = model.graph
    if graph.opset_imports[""] <= OPSET:
        return False
    for node in tuple(graph):
        if node.op_type in _FORMS:
            written = Writing(node)
            result = _FORMS[node.op_type](node, written)
            written.replace(result)
    for node in graph:
        _check(node)
    RemoveUnusedNodesPass()(model)  # and the weights that nothing takes any more
    graph.opset_imports[""] = OPSET
    model.ir_version = IR_VERSION
    return True


def _attention(node: ir.Node, write: Writing) -> ir.Value:
    """softmax(scale * q k^T + mask) v, with the scale on q, where TensorRT's fusion wants it."""
    _refuse_unless_plain(node)
    q, k, v = map(given, node.inputs[:3])
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    flat = len(shape_of(q)) == 3  # (rows, length, heads * width); with four: (rows, heads, length, width)
    if flat:
        heads = node.attributes.get_int("q_num_heads"), node.attributes.get_int("kv_num_heads")
        q, k, v = (_split(write, x, count) for x, count in zip((q, k, v), (heads[0], heads[1], heads[1]), strict=True))
    width = shape_of(node.inputs[0])[-1]
    if not isinstance(width, int):
        raise NotImplementedError(f"{node.name} attends with heads of unknown width")
    scale = node.attributes.get_float("scale", (width // heads[0] if flat else width) ** -0.5)
    scaled = write.node("Mul", q, write.constant(scale))
    scores = write.node("MatMul", scaled, write.node("Transpose", k, perm=[0, 1, 3, 2]))
    if mask is not None:
        scores = write.node("Add", scores, _additive(write, mask))
    if node.attributes.get_int("is_causal", 0):
        scores = write.node("Add", scores, write.constant(_causal(node)))
    answer = write.node("MatMul", write.node("Softmax", scores, axis=-1), v)
    if flat:
        answer = write.node("Reshape", write.node("Transpose", answer, perm=[0, 2, 1, 3]), write.lengths(0, 0, -1))
    return answer


def _refuse_unless_plain(node: ir.Node) -> None:
    """Exports of latentrt have none of these; writing them out would be code that nothing runs."""
    heads = [node.attributes.get_int(f"{who}_num_heads", 0) for who in ("q", "kv")]
    if len(shape_of(node.inputs[0])) == 4:
        heads = [shape_of(value)[1] for value in node.inputs[:2]]
    more = [value for value in (*node.inputs[4:], *node.outputs[1:]) if value is not None and value.name]
    for asked, found in (
        ("a cache of keys, or more than one output", bool(more)),
        ("softcap", node.attributes.get_float("softcap", 0.0) != 0),
        ("fewer heads of keys than of queries", heads[0] != heads[1]),
    ):
        if found:
            raise NotImplementedError(f"{node.name} asks for {asked}, which is not written out in opset {OPSET}")


def _split(write: Writing, value: ir.Value, heads: int) -> ir.Value:
    """(rows, length, heads * width) -> (rows, heads, length, width)."""
    return write.node("Transpose", write.node("Reshape", value, write.lengths(0, 0, heads, -1)), perm=[0, 2, 1, 3])


def _additive(write: Writing, mask: ir.Value) -> ir.Value:
    """A mask of booleans says what to attend to."""
    if mask.dtype != ir.DataType.BOOL:
        return mask
    none = write.constant(0.0)
    return write.node("Where", mask, none, write.constant(-np.inf), dtype=none.dtype)


def _causal(node: ir.Node) -> NDArray[np.float32]:
    queries, keys = (shape_of(value)[-2] for value in node.inputs[:2])
    if not (isinstance(queries, int) and isinstance(keys, int)):
        raise NotImplementedError(f"{node.name} attends causally over a length that is not known: build for one size")
    return np.triu(np.full((queries, keys), -np.inf, np.float32), k=1)


def _check(node: ir.Node) -> None:
    """A node that stays must mean the same in opset 20."""
    if node.domain:
        raise NotImplementedError(f"{node.name} is a {node.domain}.{node.op_type}, which is not ONNX's own")
    try:
        schema = onnx.defs.get_schema(node.op_type, OPSET)
    except onnx.defs.SchemaError as error:
        raise NotImplementedError(f"opset {OPSET} has no {node.op_type} ({node.name})") from error
    unknown = sorted(set(node.attributes) - set(schema.attributes))
    if schema.deprecated or unknown:
        raise NotImplementedError(f"{node.op_type} of opset {OPSET} has no {' or '.join(unknown)} ({node.name})")


_FORMS = {"Attention": _attention, "GroupNormalization": instance_normalization}
