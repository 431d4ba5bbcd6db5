"""A network on disk: all that export knows of it before its weights are read, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Module_co = TypeVar("Module_co", bound=nn.Module, covariant=True)


@dataclass(frozen=True)
class StoredNetwork(Generic[Module_co]):
    """Keys and shapes are checked; `load` reads the weights, float32 and frozen, anew each time, and keeps none.

    So a network is in memory for as long as its caller holds it. `config` is diffusers' or transformers' own object;
    `empty` makes the network without weights, on the meta device.
    """

    config: Any
    empty: Callable[[], Module_co]
    load: Callable[[], Module_co]
    dtype: torch.dtype  # the coarsest that it is stored in
    files: Mapping[str, str]  # name -> SHA-256
    ignored: Mapping[str, int] = field(default_factory=dict)  # kind -> how many keys were left out


def coarsest_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The floating type with the largest rounding among these tensors; float32 where none is floating."""
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)
