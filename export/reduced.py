"""A network in fp16 or bf16, computed as a GPU computes it, whatever this machine's processor can do."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from .wrappers import Network

ReducedPrecision = Literal["fp16", "bf16"]
DTYPES: dict[ReducedPrecision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}

_SUMS = frozenset({"addmm", "baddbmm", "bmm", "convolution", "mm"})
_SUMS_INSIDE = ("native_group_norm", "native_layer_norm", "_scaled_dot_product", "_softmax")


def in_precision(network: Network, precision: ReducedPrecision) -> Network:
    """A copy of the network that reads and writes float32 and computes in a reduced precision.

    Vectors (timesteps) stay float32 on the way in, as diffusers has them.
    """
    dtype = DTYPES[precision]
    return replace(network, module=_Reduced(_copied(network.module, dtype), dtype))


class _Reduced(nn.Module):
    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype

    def forward(self, *inputs: Tensor) -> Any:
        with _SumsInFloat(self.dtype):
            answer = self.module(*(x.to(self.dtype) if x.ndim > 1 else x for x in inputs))
        return tree_map_only(Tensor, Tensor.float, answer)


class _SumsInFloat(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs sums of reduced numbers as tensor cores do: read and written in `dtype`, added up in fp32.

    A CPU without such arithmetic would take a hundred times longer, for sums that are less exact than any GPU's.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        reduced = any(isinstance(x, Tensor) and x.dtype == self._dtype for x in args)
        if not (reduced and (name in _SUMS or name.startswith(_SUMS_INSIDE))):
            return func(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, self._widened, (args, kwargs))
        return tree_map_only(Tensor, self._narrowed, func(*args, **kwargs))

    def _widened(self, x: Tensor) -> Tensor:
        return x.float() if x.dtype == self._dtype else x

    def _narrowed(self, x: Tensor) -> Tensor:
        return x.to(self._dtype) if x.dtype == torch.float32 else x


def _copied(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in `dtype`, made without a second one in fp32 on the way."""
    copies: dict[int, Any] = {}
    for parameter in module.parameters():
        copies[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
    for buffer in module.buffers():
        copies[id(buffer)] = buffer.to(dtype) if buffer.is_floating_point() else buffer
    return copy.deepcopy(module, copies)
