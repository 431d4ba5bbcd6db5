"""Which other files an ONNX graph reads, found without loading it.

A graph may point anywhere on disk for its weights. The runtime has no `onnx` package, so this walks the protobuf wire
format itself, down the few fields that can lead to a tensor (numbers from onnx.proto, ONNX IR version 3 to 13).
"""

from __future__ import annotations

from collections.abc import Iterator

from .errors import BundleError
from .wire import fields

_TENSOR = "tensor"
_EXTERNAL = "external"

# message -> {field number: message found there}
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {13: _EXTERNAL},
}
_MAX_DEPTH = 64


def external_locations(model: bytes, name: str) -> set[str]:
    """The paths, relative to the graph, of all external data that an ONNX model refers to.

    Raises:
        BundleError: the bytes are not an ONNX model, or hold what no exporter writes (groups, huge field numbers).
    """
    try:
        return set(_locations(memoryview(model), "model", 0))
    except ValueError as error:  # UnicodeDecodeError too
        raise BundleError(f"{name} is not an ONNX model: {error}; export the bundle again") from error


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError("graphs are nested too deeply")
    inside = _FIELDS[kind]
    for number, value in fields(message):
        found = inside.get(number)
        if found == _EXTERNAL:
            entry = {n: bytes(v).decode() for n, v in fields(value)}
            if entry.get(1) == "location":
                yield entry.get(2, "")
        elif found is not None:
            yield from _locations(value, found, depth + 1)
