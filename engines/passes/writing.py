"""Take a node out of a graph and write other nodes in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike


class Writing:
    """What takes the place of a node: nodes before it, whose values are of its first input's type."""

    def __init__(self, node: ir.Node) -> None:
        assert node.graph is not None
        self._node, self._graph = node, node.graph
        self._name, self._type = str(node.outputs[0].name), given(node.inputs[0]).dtype
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


def given(value: ir.Value | None) -> ir.Value:
    """An input that ONNX leaves no choice about."""
    assert value is not None
    return value


def shape_of(value: ir.Value | None) -> Sequence[int | ir.SymbolicDim]:
    """A shape of known rank.

    Raises:
        NotImplementedError: the rank is not known.
    """
    value = given(value)
    if value.shape is None:
        raise NotImplementedError(f"{value.name} has no known rank")
    return tuple(value.shape)
