"""Opset 23 -> opset 20: what came in between is written out in older operators, for readers that end there.

TensorRT 10.3, JetPack's, is one: its parser knows no Attention, and takes the scales of GroupNormalization for one a
group, as opset 18 had them (github.com/NVIDIA/TensorRT/issues/4336). docs/graph.md has the sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

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
            written = _Writing(node)
            result = _FORMS[node.op_type](node, written)
            written.replace(result)
    for node in graph:
        _check(node)
    RemoveUnusedNodesPass()(model)  # and the weights that nothing takes any more
    graph.opset_imports[""] = OPSET
    model.ir_version = IR_VERSION
    return True


class _Writing:
    """What takes the place of a node: nodes before it, whose values are of its first input's type."""

    def __init__(self, node: ir.Node) -> None:
        assert node.graph is not None
        self._node, self._graph = node, node.graph
        self._name, self._type = str(node.outputs[0].name), _given(node.inputs[0]).dtype
        self._count = 0

    def node(self, op: str, *inputs: ir.Value | None, dtype: ir.DataType | None = None, **attributes: Any) -> ir.Value:
        """The output of a new node."""
        output = ir.Value(name=self._next(), type=ir.TensorType(dtype or self._of(inputs)))
        node = ir.node(op, inputs, attributes, outputs=[output], name=f"{output.name}.{op}")
        self._graph.insert_before(self._node, [node])
        return output

    def constant(self, array: ArrayLike, dtype: ir.DataType | None = None) -> ir.Value:
        """A new constant, of the node's own type."""
        dtype = dtype or self._of(())
        tensor = ir.tensor(np.asarray(array, dtype.numpy()), dtype=dtype, name=self._next())
        value = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def lengths(self, *lengths: int) -> ir.Value:
        """A shape, or axes."""
        return self.constant(lengths, ir.DataType.INT64)

    def replace(self, result: ir.Value) -> None:
        """Let the node's answer be this one, under its name."""
        output = self._node.outputs[0]
        result.shape, result.type = output.shape, output.type
        name = output.name
        ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
        self._graph.remove(self._node, safe=True)
        output.name, result.name = f"{name}.replaced", name

    def _next(self) -> str:
        self._count += 1
        return f"{self._name}.{self._count}"

    def _of(self, inputs: Sequence[ir.Value | None]) -> ir.DataType:
        found = next((value.dtype for value in inputs if value is not None), self._type)
        if found is None:
            raise NotImplementedError(f"{self._node.name or self._name} has no type")
        return found


def _attention(node: ir.Node, write: _Writing) -> ir.Value:
    """softmax(scale * q k^T + mask) v, with the scale on q, where TensorRT's fusion wants it."""
    _refuse_unless_plain(node)
    q, k, v = map(_given, node.inputs[:3])
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    flat = len(_shape(q)) == 3  # (rows, length, heads * width); with four: (rows, heads, length, width)
    if flat:
        heads = node.attributes.get_int("q_num_heads"), node.attributes.get_int("kv_num_heads")
        q, k, v = (_split(write, x, count) for x, count in zip((q, k, v), (heads[0], heads[1], heads[1]), strict=True))
    width = _shape(node.inputs[0])[-1]
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
    if len(_shape(node.inputs[0])) == 4:
        heads = [_shape(value)[1] for value in node.inputs[:2]]
    more = [value for value in (*node.inputs[4:], *node.outputs[1:]) if value is not None and value.name]
    for asked, found in (
        ("a cache of keys, or more than one output", bool(more)),
        ("softcap", node.attributes.get_float("softcap", 0.0) != 0),
        ("fewer heads of keys than of queries", heads[0] != heads[1]),
    ):
        if found:
            raise NotImplementedError(f"{node.name} asks for {asked}, which is not written out in opset {OPSET}")


def _split(write: _Writing, value: ir.Value, heads: int) -> ir.Value:
    """(rows, length, heads * width) -> (rows, heads, length, width)."""
    return write.node("Transpose", write.node("Reshape", value, write.lengths(0, 0, heads, -1)), perm=[0, 2, 1, 3])


def _additive(write: _Writing, mask: ir.Value) -> ir.Value:
    """A mask of booleans says what to attend to."""
    if mask.dtype != ir.DataType.BOOL:
        return mask
    none = write.constant(0.0)
    return write.node("Where", mask, none, write.constant(-np.inf), dtype=none.dtype)


def _causal(node: ir.Node) -> NDArray[np.float32]:
    queries, keys = (_shape(value)[-2] for value in node.inputs[:2])
    if not (isinstance(queries, int) and isinstance(keys, int)):
        raise NotImplementedError(f"{node.name} attends causally over a length that is not known: build for one size")
    return np.triu(np.full((queries, keys), -np.inf, np.float32), k=1)


def _group_normalization(node: ir.Node, write: _Writing) -> ir.Value:
    """Each group as one channel: (rows, channels, ...) -> (rows, groups, rest), normalised, and back."""
    x, scale, bias = map(_given, node.inputs)
    groups = node.attributes.get_int("num_groups")
    shape = _shape(x)
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


def _reshaped(write: _Writing, value: ir.Value, shape: Sequence[int]) -> ir.Value:
    if value.const_value is None:
        return write.node("Reshape", value, write.lengths(*shape))
    return write.constant(value.const_value.numpy().reshape(shape))


def _given(value: ir.Value | None) -> ir.Value:
    assert value is not None  # ONNX leaves no choice
    return value


def _shape(value: ir.Value | None) -> Sequence[int | ir.SymbolicDim]:
    value = _given(value)
    if value.shape is None:
        raise NotImplementedError(f"{value.name} has no known rank")
    return tuple(value.shape)


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


_FORMS = {"Attention": _attention, "GroupNormalization": _group_normalization}
