"""What the tensors of KServe's protocol mean, over HTTP and in Triton: inputs are fields, outputs what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.errors import InputError, unknown_name

from .limits import check_count
from .picture_files import Picture
from .seed_by_lot import seed_by_lot
from .settings import ServeSettings

Tensor: TypeAlias = tuple[str, list[Any]]  # its datatype and its values, flat; BYTES are `bytes`


@dataclass(frozen=True)
class Field:
    """An input: the type that is announced for it, and the first letters of those that are taken."""

    datatype: Any
    taken: tuple[str, ...]


_TEXT = Field("BYTES", ("BYTES",))
_COUNT = Field("UINT64", ("INT", "UINT"))
_NUMBER = Field("FP32", ("FP", "INT", "UINT"))
INPUTS = {
    "prompt": _TEXT,
    "negative_prompt": _TEXT,
    "num_inference_steps": _COUNT,
    "guidance_scale": _NUMBER,
    "seed": _COUNT,
    "width": _COUNT,
    "height": _COUNT,
    "sampler": _TEXT,
    "decoder": _TEXT,
    "prompt_syntax": _TEXT,
}
OUTPUTS: dict[str, tuple[Any, list[int]]] = {
    "image": ("UINT8", [-1, -1, -1, 3]),  # (n, height, width, 3)
    "png": ("BYTES", [-1]),
    "seed": ("UINT64", [-1]),
    "flagged": ("BOOL", [-1]),
}


def orders_of(tensors: Mapping[str, Tensor], settings: ServeSettings) -> list[dict[str, Any]]:
    """One order for each prompt.

    Raises:
        InputError: no prompt, more than this server takes, an input of another name or type, or as many values as fit
            no number of prompts.
    """
    columns = {name: _values(name, tensor) for name, tensor in tensors.items()}
    if not columns.get("prompt"):
        raise InputError(f"inputs: there is no prompt; the inputs are {', '.join(INPUTS)}")
    count = len(columns["prompt"])
    check_count(count, settings)  # a body has room for a quarter of a million
    seeds = columns.pop("seed", None) or [seed_by_lot()]
    columns["seed"] = [seeds[0] + i for i in range(count)] if len(seeds) == 1 else seeds
    for name, values in columns.items():
        if len(values) not in {1, count}:
            raise InputError(f"inputs: {name} has {len(values)} values; expected one, or one for each prompt ({count})")
    orders = [{name: values[min(i, len(values) - 1)] for name, values in columns.items()} for i in range(count)]
    if len({(order.get("width"), order.get("height")) for order in orders}) > 1:
        raise InputError("inputs: pictures of one request have one width and height, so that they are one tensor")
    return orders


def tensors_of(pictures: Sequence[Picture], wanted: Sequence[str]) -> dict[str, tuple[str, NDArray[Any]]]:
    """The outputs that were asked for: datatype and array."""
    made: dict[str, Callable[[], NDArray[Any]]] = {
        "image": lambda: np.stack([np.asarray(picture.image) for picture in pictures]),
        "png": lambda: np.array([picture.data for picture in pictures], dtype=object),
        "seed": lambda: np.array([picture.seed for picture in pictures], np.uint64),
        "flagged": lambda: np.array([picture.flagged for picture in pictures], np.bool_),
    }
    return {name: (OUTPUTS[name][0], made[name]()) for name in wanted}


def _values(name: str, tensor: Tensor) -> list[Any]:
    if name not in INPUTS:
        raise unknown_name("input", name, INPUTS)
    datatype, values = tensor
    field = INPUTS[name]
    if not datatype.startswith(field.taken):
        raise InputError(f"inputs: {name} is {field.datatype}; got {datatype}")
    if field is not _TEXT:
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise InputError(f"inputs: {name} is not UTF-8: {error}") from error
