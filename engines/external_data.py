"""Which other files an ONNX graph reads, found without loading it.

A graph may point anywhere on disk for its weights. The runtime has no `onnx` package, so this walks the protobuf wire
format itself, down the few fields that can lead to a tensor (numbers from onnx.proto, ONNX IR version 3 to 13).
"""

from __future__ import annotations

from collections.abc import Iterator

from .errors import BundleError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
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
    for number, value in _fields(message):
        found = inside.get(number)
        if found == _EXTERNAL:
            entry = {n: bytes(v).decode() for n, v in _fields(value)}
            if entry.get(1) == "location":
                yield entry.get(2, "")
        elif found is not None:
            yield from _locations(value, found, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a message; the others are stepped over."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if not 8 <= tag < 2**32:  # protobuf's C++ parser drops the higher bits: a field could hide behind them
            raise ValueError(f"field number {tag >> 3} at byte {at}")
        if wire == _VARINT:
            _, at = _varint(message, at)
            continue
        if wire == _BYTES:
            length, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + length > len(message):
            raise ValueError(f"it ends in the middle of a field, at byte {len(message)}")
        if wire == _BYTES:
            yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at == len(message):
            raise ValueError(f"it ends in the middle of a number, at byte {at}")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number without end at byte {at}")
