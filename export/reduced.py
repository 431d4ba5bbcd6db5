"""A network in fp16 or bf16, computed as a GPU computes it, whatever this machine's processor can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from .wrappers import Network

ReducedPrecision = Literal["fp16", "bf16"]
DTYPES: dict[ReducedPrecision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}  # finer first


def reduce_in_place(network: Network, precision: ReducedPrecision) -> Network:
    """Round the network's weights; gives it as one whose every operation gives numbers of `precision`.

    All tensors stay float32. An operation reads rounded numbers, adds them up in fp32 and rounds what it gives, as
    tensor cores do. A CPU without such arithmetic would take a hundred times longer, for sums less exact than a GPU's.

    What was rounded to fp16 may be rounded to bf16 next. The timestep's sinusoids are computed in fp32, as diffusers
    has them.
    """
    dtype = DTYPES[precision]
    with torch.no_grad():
        for weight in (*network.module.parameters(), *network.module.buffers()):
            weight.copy_(_rounded(weight, dtype))
    return replace(network, module=_Reduced(network.module, dtype))


class _Reduced(nn.Module):
    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype

    def forward(self, *inputs: Tensor) -> Any:
        rounding = _Rounding(self.dtype)
        with rounding, _left_alone(self.module, Timesteps, rounding):
            return self.module(*(_rounded(x, self.dtype) if x.ndim > 1 else x for x in inputs))


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Rounds the float32 results of every operation, unless it is `paused`."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.paused = False
        self._dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **kwargs or {})
        views = all(result.alias_info is not None for result in func._schema.returns)
        return answer if views or self.paused else tree_map_only(Tensor, lambda x: _rounded(x, self._dtype), answer)


@contextmanager
def _left_alone(module: nn.Module, kind: type[nn.Module], rounding: _Rounding) -> Iterator[None]:
    """Pause the rounding inside the parts of this kind."""

    def pause(*_: Any) -> None:
        rounding.paused = True

    def resume(*_: Any) -> None:
        rounding.paused = False

    parts = [part for part in module.modules() if isinstance(part, kind)]
    hooks = [part.register_forward_pre_hook(pause) for part in parts]
    hooks += [part.register_forward_hook(resume) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).float() if x.dtype == torch.float32 else x
