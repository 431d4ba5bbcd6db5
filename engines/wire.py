"""Protobuf's wire format, as far as an ONNX file needs it: the fields of a message, and a field to append.

A serving machine has no `onnx` package, and a stranger's graph is looked at before any library parses it.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a message, as (field number, content); the others are stepped over.

    Raises:
        ValueError: the bytes are not a message, or hold what no exporter writes (groups, huge field numbers).
    """
    return ((number, content) for number, content in _parts(message) if not isinstance(content, int))


def numbers(message: memoryview) -> Iterator[tuple[int, int]]:
    """The fields of a message that are whole numbers, as (field number, value).

    Raises:
        ValueError: as `fields`.
    """
    return ((number, value) for number, value in _parts(message) if isinstance(value, int))


def _parts(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if not 8 <= tag < 2**32:  # protobuf's C++ parser drops the higher bits: a field could hide behind them
            raise ValueError(f"field number {tag >> 3} at byte {at}")
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
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


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field, ready to be appended to a message."""
    return _encoded(number << 3 | _BYTES) + _encoded(len(content)) + content


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


def _encoded(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _encoded(rest) if rest else bytes([low])
