"""TensorRT for RTX: plans for named GPU architectures, built on any machine; kernels are compiled where they run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .errors import EngineError, InputError
from .options import PROFILE_OPTIONS
from .trt import cuda
from .trt.backend import FamilyBackend
from .trt.family import Family

try:
    import tensorrt_rtx as trt
except (ImportError, OSError) as error:  # OSError: a part of it is missing
    raise EngineError("the tensorrt-rtx engine needs TensorRT for RTX: pip install 'latentrt[rtx]'") from error

_ALONE = "sm75"  # Turing: a plan of its own, and no bf16
_JETSON = "sm87"
_CURRENT = "current"


@dataclass(frozen=True)
class TensorRtRtxBackend(FamilyBackend):
    """One plan for all the architectures that are asked for, or for this machine's."""

    family: ClassVar[Family] = Family("tensorrt-rtx", trt, ahead_of_time=True, attention_since=(1, 6))
    name: ClassVar[str] = "tensorrt-rtx"
    takes: ClassVar[frozenset[str]] = PROFILE_OPTIONS | {"targets", "weight_streaming", "opset"}

    def obstacle(self) -> str | None:
        reason = cuda.no_gpu(self.device)
        if reason is not None or not self.options.targets:
            return reason
        here = cuda.find_gpu(self.device).sm
        return None if here in self.options.targets else f"this GPU is {here}, the engine is for {self._device()}"

    def _device(self) -> str:
        if not self.options.targets:
            own = self._own_target()
            _check_precision((own,), self.options.precision)
            return own
        return "+".join(self._targets())

    def _targets(self) -> tuple[str, ...]:
        """Without a target the library looks at the GPU itself: whether it takes one not in its list is its to say."""
        targets = tuple(sorted(set(self.options.targets), key=_number))
        return check_targets(targets, self.options.precision) if targets else (_CURRENT,)

    def _own_target(self) -> str:
        if reason := cuda.no_gpu(self.device):
            raise EngineError(f"{reason}; to build for other machines name their GPUs: --target sm86,sm89,sm120")
        return cuda.find_gpu(self.device).sm

    def _timing(self) -> Path | None:
        return None


def known_targets() -> list[str]:
    """The architectures that the installed library builds for: `["sm75", "sm80", ...]`."""
    names = (name.lower() for name in trt.ComputeCapability.__members__)
    return sorted((name for name in names if name.startswith("sm")), key=_number)


def check_targets(targets: tuple[str, ...], precision: str | None) -> tuple[str, ...]:
    """The same targets, once it is known that one plan can be for all of them.

    Raises:
        InputError: the library does not build for one of them, or not for these together.
    """
    for target in targets:
        if target == _JETSON:
            raise InputError(f"TensorRT for RTX has no {target} (Jetson Orin): build there with --engine tensorrt")
        if target not in known_targets():
            raise InputError(f"TensorRT for RTX has no target {target}; it has {', '.join(known_targets())}")
    if _ALONE in targets and len(targets) > 1:
        raise InputError(f"a plan for {_ALONE} is for {_ALONE} alone: build it and {targets[-1]} one after the other")
    _check_precision(targets, precision)
    return targets


def _check_precision(targets: tuple[str, ...], precision: str | None) -> None:
    if _ALONE in targets and precision == "bf16":
        raise InputError(f"{_ALONE} does not compute in bf16: build with --precision fp16 or fp32")


def _number(target: str) -> int:
    return int(target.removeprefix("sm"))


BACKEND = TensorRtRtxBackend()
