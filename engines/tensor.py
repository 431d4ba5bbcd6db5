"""What an engine takes and gives: names, dtypes, and shapes whose free dimensions have names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import InputError

_FREE = re.compile(r"(?:([1-9][0-9]{0,4})\*)?([a-z_]+)")

# what a manifest may state; an array of another dtype or a dimension of 0 could not be fed
_Dtype = Annotated[str, msgspec.Meta(pattern=r"^(bool|u?int(8|16|32|64)|float(16|32|64))\Z")]
_Length = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
_Free = Annotated[str, msgspec.Meta(pattern=rf"^{_FREE.pattern}\Z")]

Feeds = Mapping[str, NDArray[Any]]


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output.

    A dimension is a number, a free name (`"rows"`), or a multiple of one (`"8*height"`: any multiple of 8, eight times
    what other tensors of the component call `height`).
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[!-~]+\Z")]
    dtype: _Dtype
    shape: tuple[_Length | _Free, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


def check_feeds(component: str, specs: Sequence[TensorSpec], feeds: Feeds) -> dict[str, int]:
    """Check feeds against the declared inputs and return the value of each free dimension.

    Raises:
        InputError: names the component, the input, what it expects and what it got.
    """
    known = {spec.name for spec in specs}
    for name in feeds:
        if name not in known:
            raise InputError(f"{component} has no input {name!r}; it takes {', '.join(map(str, specs))}")
    bound: dict[str, int] = {}
    for spec in specs:
        if spec.name not in feeds:
            raise InputError(f"{component} got no input {spec.name!r}; it takes {', '.join(map(str, specs))}")
        _check_feed(component, spec, feeds[spec.name], bound)
    return bound


def _check_feed(component: str, spec: TensorSpec, feed: NDArray[Any], bound: dict[str, int]) -> None:
    got = f"got {feed.dtype} {feed.shape}"
    if feed.dtype != np.dtype(spec.dtype):
        raise InputError(f"{component} expects {spec}; {got}")
    if feed.ndim != len(spec.shape):
        raise InputError(f"{component} expects {spec}; {got}")
    for dimension, length in zip(spec.shape, feed.shape, strict=True):
        reason = _mismatch(dimension, length, bound)
        if reason:
            raise InputError(f"{component} expects {spec}; {got}: {reason}")


def _mismatch(dimension: int | str, length: int, bound: dict[str, int]) -> str | None:
    """Why `length` does not fit `dimension`, if it does not; binds a free name at first sight."""
    if isinstance(dimension, int):
        return None if length == dimension else f"{length} is not {dimension}"
    factor, name = split_dimension(dimension)
    if length == 0 or length % factor:
        return f"{length} is not a positive multiple of {factor}"
    value = bound.setdefault(name, length // factor)
    return None if value == length // factor else f"{name} is {value} in another input and {length // factor} here"


def resolve_shape(shape: Sequence[int | str], bound: Mapping[str, int]) -> tuple[int, ...]:
    """The shape with its free dimensions replaced by their values."""
    lengths = []
    for dimension in shape:
        if isinstance(dimension, int):
            lengths.append(dimension)
        else:
            factor, name = split_dimension(dimension)
            lengths.append(factor * bound[name])
    return tuple(lengths)


def blank_feeds(specs: Sequence[TensorSpec], bound: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Zeros of the declared dtypes and of these shapes, to ask about a call; they take no memory."""
    return {spec.name: np.broadcast_to(np.zeros((), spec.dtype), resolve_shape(spec.shape, bound)) for spec in specs}


def free_names(specs: Sequence[TensorSpec]) -> set[str]:
    """The names of all free dimensions."""
    return {split_dimension(dimension)[1] for spec in specs for dimension in spec.shape if isinstance(dimension, str)}


def split_dimension(dimension: str) -> tuple[int, str]:
    """`"8*height"` -> (8, "height"); `"rows"` -> (1, "rows")."""
    match = _FREE.fullmatch(dimension)
    if match is None:
        raise InputError(f"{dimension!r} is not a dimension: expected a name such as 'rows' or '8*height'")
    return int(match[1] or 1), match[2]
