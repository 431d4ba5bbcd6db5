"""Tensors on the wire of KServe's protocol: as JSON, or as bytes behind it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from pydantic import ValidationError

from latentrt.engines.errors import InputError

from ..inference_tensors import Tensor
from .kserve_schema import InferRequest, Input

HEADER_LENGTH = "Inference-Header-Content-Length"  # of the JSON, where binary tensors follow it
VERSION = "1"  # of the model: the one that there is
_BYTES = "BYTES"
_PREFIX = 4  # bytes of a length, little end first, before each element of a BYTES tensor
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"{sign}INT{bits}": np.dtype(f"{sign}int{bits}".lower()) for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
}


def read_request(body: bytes, header_length: str | None) -> tuple[InferRequest, dict[str, Tensor]]:
    """The JSON of a request, and its tensors by name.

    Raises:
        RequestValidationError: the JSON is not of the protocol.
        InputError: a tensor's data does not fit its shape or type.
    """
    length = _header_length(header_length, len(body))
    try:
        asked = InferRequest.model_validate_json(body[:length])
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from error
    rest, tensors = memoryview(body)[length:], dict[str, Tensor]()
    for one in asked.inputs:
        if one.name in tensors:
            raise InputError(f"inputs: {one.name!r} is there twice")
        size = one.parameters.binary_data_size
        if size is None:
            values = _from_json(one)
        else:
            values, rest = _from_bytes(one, bytes(rest[:size]), size), rest[size:]
        if len(values) != math.prod(one.shape):
            raise InputError(f"inputs: {one.name} has shape {one.shape} and {len(values)} values")
        tensors[one.name] = (one.datatype, values)
    if len(rest):
        raise InputError(f"{len(rest)} bytes behind the JSON belong to no input")
    return asked, tensors


def written(
    model: str, asked: InferRequest, outputs: Mapping[str, tuple[str, NDArray[Any]]]
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where tensors lie behind it."""
    told, behind = [], []
    for name, (datatype, array) in outputs.items():
        one: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if asked.is_binary(name):
            data = _packed(array) if datatype == _BYTES else np.ascontiguousarray(array).tobytes()
            one["parameters"] = {"binary_data_size": len(data)}
            behind.append(data)
        else:
            one["data"] = _plain(name, datatype, array)
        told.append(one)
    answer = {"model_name": model, "model_version": VERSION, "outputs": told} | ({"id": asked.id} if asked.id else {})
    header = json.dumps(answer).encode()
    return (b"".join([header, *behind]), len(header)) if behind else (header, None)


def _header_length(stated: str | None, size: int) -> int:
    if stated is None:
        return size
    if not (stated.isascii() and stated.isdigit() and len(stated) < 12 and int(stated) <= size):
        raise InputError(f"{HEADER_LENGTH} is the length of the JSON, at most the body's {size} bytes; got {stated!r}")
    return int(stated)


def _from_json(one: Input) -> list[Any]:
    if one.data is None:
        raise InputError(f"inputs: {one.name} has neither data nor binary_data_size")
    values = list(_flat(one.data))
    if one.datatype == _BYTES:
        if not all(isinstance(value, str) for value in values):
            raise InputError(f"inputs: {one.name} is BYTES: its data are strings")
        return [value.encode("utf-8", "surrogatepass") for value in values]
    kinds = {"F": (int, float), "B": (bool,)}.get(one.datatype[0], (int,))
    for value in values:
        if not isinstance(value, kinds) or (isinstance(value, bool) and one.datatype != "BOOL"):
            raise InputError(f"inputs: {one.name} is {one.datatype}; its data hold {type(value).__name__}")
    return values


def _flat(data: Iterable[Any]) -> Iterable[Any]:
    """The values of nested lists, one after another; JSON nests no deeper than its parser allows."""
    for value in data:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value


def _from_bytes(one: Input, data: bytes, size: int) -> list[Any]:
    if len(data) != size:
        raise InputError(f"inputs: {one.name} has {size} bytes behind the JSON; {len(data)} came")
    if one.datatype == _BYTES:
        return list(_unpacked(one.name, data))
    dtype = DTYPES[one.datatype].newbyteorder("<")
    if len(data) % dtype.itemsize:
        raise InputError(f"inputs: {one.name} has {size} bytes, not a multiple of the {dtype.itemsize} of its type")
    values: list[Any] = np.frombuffer(data, dtype).tolist()
    return values


def _unpacked(name: str, data: bytes) -> Iterable[bytes]:
    place = 0
    while place < len(data):
        start = place + _PREFIX
        place = start + int.from_bytes(data[place:start], "little")
        if start > len(data) or place > len(data):
            raise InputError(f"inputs: an element of {name} is longer than what came")
        yield data[start:place]


def _packed(array: NDArray[Any]) -> bytes:
    return b"".join(len(value).to_bytes(_PREFIX, "little") + value for value in array.ravel().tolist())


def _plain(name: str, datatype: str, array: NDArray[Any]) -> list[Any]:
    if datatype == _BYTES:
        raise InputError(f"outputs: {name} is no text, which is all that JSON can hold: ask for it as binary_data")
    values: list[Any] = array.ravel().tolist()
    return values
