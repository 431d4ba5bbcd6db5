"""The nodes of an ONNX graph, and the same graph with tensors inside it marked as outputs, without an ONNX library."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .errors import BundleError
from .wire import field, fields, numbers

_GRAPH = 7  # of ModelProto
_NODE, _INPUT, _OUTPUT, _VALUE_INFO = 1, 11, 12, 13  # of GraphProto
_NAME, _TYPE = 1, 2  # of ValueInfoProto
_TENSOR = 1  # of TypeProto
_ELEMENT, _SHAPE = 1, 2  # of TypeProto.Tensor
_DIMENSION = 1  # of TensorShapeProto
_LENGTH, _SYMBOL = 1, 2  # of TensorShapeProto.Dimension


@dataclass(frozen=True)
class Node:
    """One operation: the tensors it takes and gives, by name; those that it leaves out are not listed."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_nodes(model: bytes, where: str) -> list[Node]:
    """The nodes of a model's main graph, in their order, which ONNX requires to be one of computation.

    Raises:
        BundleError: the bytes are not an ONNX model.
    """
    try:
        parts = [part for number, graph in fields(memoryview(model)) if number == _GRAPH for part in fields(graph)]
        return [_node(content) for number, content in parts if number == _NODE]
    except ValueError as error:  # UnicodeDecodeError too
        raise BundleError(f"{where} is not an ONNX model: {error}; export the bundle again") from error


@dataclass(frozen=True)
class Tensor:
    """What a graph states of a tensor: ONNX's number of its element type, and its shape.

    A dimension is a number, or text such as "rows" or "16*height*width"; it is "" where the graph says nothing of it.
    """

    element: int
    shape: tuple[int | str, ...]


def read_tensors(model: bytes, where: str) -> dict[str, Tensor]:
    """The tensors whose type a model's main graph states, by name: its inputs, its outputs, and those between.

    Raises:
        BundleError: the bytes are not an ONNX model.
    """
    kinds = {_INPUT, _OUTPUT, _VALUE_INFO}
    try:
        parts = [part for number, graph in fields(memoryview(model)) if number == _GRAPH for part in fields(graph)]
        infos = [bytes(content) for number, content in parts if number in kinds]
        return {_text(info, _NAME): _tensor(_message(memoryview(info), _TYPE, _TENSOR)) for info in infos}
    except ValueError as error:
        raise BundleError(f"{where} is not an ONNX model: {error}; export the bundle again") from error


def with_outputs(model: bytes, tensors: Collection[str]) -> bytes:
    """The model with these tensors as further outputs of its main graph.

    Protobuf joins two values of one message field into one: a second, small `graph` at the end of the file adds its
    outputs to the first. What the graph states of a tensor's type and shape is repeated; else the reader infers it.
    """
    stated: dict[str, bytes] = {}
    for number, graph in fields(memoryview(model)):
        if number == _GRAPH:
            infos = (bytes(content) for inner, content in fields(graph) if inner == _VALUE_INFO)
            stated |= {_text(info, _NAME): info for info in infos}
    named = (stated.get(tensor, field(_NAME, tensor.encode())) for tensor in tensors)
    return model + field(_GRAPH, b"".join(field(_OUTPUT, info) for info in named))


def ancestors(nodes: Sequence[Node], tensor: str) -> list[str]:
    """The tensors that nodes compute on the way to `tensor`, itself left out, in the order of the nodes."""
    needed = {tensor}
    found: list[str] = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            found += [name for name in reversed(node.outputs) if name != tensor and name in needed]
    return found[::-1]


def _node(content: memoryview) -> Node:
    parts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: []}  # NodeProto: input, output, name, op_type
    for number, value in fields(content):
        if number in parts:
            parts[number].append(bytes(value).decode())
    inputs, outputs = (tuple(filter(None, parts[number])) for number in (1, 2))
    return Node(next(iter(parts[3]), ""), next(iter(parts[4]), ""), inputs, outputs)


def _message(message: memoryview, *path: int) -> memoryview:
    """The message inside a message that a path of field numbers leads to; an empty one where there is none."""
    for number in path:
        message = next((value for found, value in fields(message) if found == number), memoryview(b""))
    return message


def _tensor(content: memoryview) -> Tensor:
    element = next((value for number, value in numbers(content) if number == _ELEMENT), 0)
    dimensions = (part for number, part in fields(_message(content, _SHAPE)) if number == _DIMENSION)
    return Tensor(element, tuple(map(_dimension, dimensions)))


def _dimension(content: memoryview) -> int | str:
    length = next((value for number, value in numbers(content) if number == _LENGTH), None)
    return _text(bytes(content), _SYMBOL) if length is None else length


def _text(message: bytes, number: int) -> str:
    return next((bytes(value).decode() for found, value in fields(memoryview(message)) if found == number), "")
