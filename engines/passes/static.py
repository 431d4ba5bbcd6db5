"""Free dimensions -> numbers: the graph of one shape, without the nodes that compute shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import RemoveUnusedNodesPass

MAX_ELEMENTS = 1024  # of a folded tensor: shapes, axes and scales have a few; what is larger is the network's own
_PRODUCT = re.compile(r"(\d+|[a-z_]+)(\*(\d+|[a-z_]+))*")


def make_static(model: ir.Model, bound: Mapping[str, int]) -> bool:
    """Give the free dimensions of a model these lengths, in place, and fold what follows; returns whether it changed.

    A dimension is a product of numbers and names (`"4*height"`); tensors whose shape says more keep it unknown. Nodes
    are folded where they compute, from shapes alone, at most 1024 elements.
    """
    changed = _bind(model.graph, bound)
    for node in tuple(model.graph):
        folded = _folded(node)
        if folded is not None:
            _replace(model.graph, node, folded)
            changed = True
    if changed:
        RemoveUnusedNodesPass()(model)
    return changed


def _bind(graph: ir.Graph, bound: Mapping[str, int]) -> bool:
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    changed = False
    for value in values:
        if value.shape is not None and not value.shape.is_static():
            value.shape = ir.Shape([_length(dimension, bound) for dimension in value.shape])
            changed = True
    return changed


def _length(dimension: int | ir.SymbolicDim, bound: Mapping[str, int]) -> int | None:
    if isinstance(dimension, int):
        return dimension
    text = str(dimension.value).replace(" ", "")
    if _PRODUCT.fullmatch(text) is None:
        return None
    factors = [int(word) if word.isdecimal() else bound.get(word) for word in text.split("*")]
    return None if None in factors else int(np.prod([factor for factor in factors if factor is not None]))


def _folded(node: ir.Node) -> NDArray[Any] | None:
    """What a node computes, where shapes alone decide it and it is small."""
    if len(node.outputs) != 1 or node.outputs[0].is_graph_output():
        return None
    if node.op_type == "Shape":
        return _shape(node)
    constants: dict[str, ir.TensorProtocol] = {}
    for value in node.inputs:
        if value is None:
            continue
        if value.const_value is None or value.const_value.size > MAX_ELEMENTS:
            return None
        constants[str(value.name)] = value.const_value
    if not any(tensor.dtype.is_integer() for tensor in constants.values()):
        return None
    return _evaluated(node, constants)


def _shape(node: ir.Node) -> NDArray[Any] | None:
    [value] = node.inputs
    if value is None or value.shape is None:
        return None
    start = node.attributes.get_int("start", 0)
    lengths = list(value.shape)[start : node.attributes.get_int("end", len(value.shape))]
    return np.array(lengths, np.int64) if all(isinstance(length, int) for length in lengths) else None


def _evaluated(node: ir.Node, constants: Mapping[str, ir.TensorProtocol]) -> NDArray[Any] | None:
    """The node's own answer, by ONNX's reference: a graph of this node and its constants."""
    tensors = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in constants.items()]
    output = helper.make_empty_tensor_value_info(str(node.outputs[0].name))
    graph = helper.make_graph([ir.to_proto(node)], "fold", [], [output], tensors)
    assert node.graph is not None
    opset = helper.make_opsetid("", node.graph.opset_imports[""])
    evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=[opset]))
    array = np.asarray(evaluator.run(None, {})[0])  # type: ignore[index]
    return array if array.size <= MAX_ELEMENTS else None


def _replace(graph: ir.Graph, node: ir.Node, array: NDArray[Any]) -> None:
    """Put a constant where the node was."""
    output = node.outputs[0]
    name = f"{output.name}.folded"
    constant = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(array, name=name),
    )
    graph.register_initializer(constant)
    output.replace_all_uses_with(constant)
    graph.remove(node, safe=True)
