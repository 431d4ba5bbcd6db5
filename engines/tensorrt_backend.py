"""TensorRT 10.3 to 11: plans for the very GPU they are built on, or with `compatible` for Ampere and later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .errors import EngineError
from .options import PROFILE_OPTIONS
from .trt import cuda
from .trt.backend import FamilyBackend
from .trt.family import Family
from .trt.timing_cache import timing_file

try:
    import tensorrt as trt
except (ImportError, OSError) as error:  # OSError: a part of it is missing
    raise EngineError("the tensorrt engine needs TensorRT 10.3 or later: pip install 'latentrt[tensorrt]'") from error

_LEAST = (10, 3)  # JetPack 6's
_ATTENTION = (10, 14)  # the first that reads the operator
_AMPERE = 80


@dataclass(frozen=True)
class TensorRtBackend(FamilyBackend):
    """Measures kernels on the GPU at hand, and remembers what it measured."""

    family: ClassVar[Family] = Family("tensorrt", trt, ahead_of_time=False, attention_since=_ATTENTION)
    name: ClassVar[str] = "tensorrt"
    takes: ClassVar[frozenset[str]] = PROFILE_OPTIONS | {
        "opt_level",
        "refittable",
        "weight_streaming",
        "compatible",
        "opset",
    }

    def __post_init__(self) -> None:
        """Refuse a library that has not all that is called here."""
        if self.family.release < _LEAST:
            raise EngineError(f"TensorRT {self.family.version} is too old: install 10.3 or later")

    def obstacle(self) -> str | None:
        reason = cuda.no_gpu(self.device)
        if reason is None and self.options.compatible:
            here = cuda.find_gpu(self.device)
            if here.capability < _AMPERE:
                return f"this GPU is {here.sm}, the engine is for sm{_AMPERE} and later"
        return reason

    def _device(self) -> str:
        gpu = cuda.find_gpu(self.device)
        return f"sm{_AMPERE} and later" if self.options.compatible else f"{gpu.name} {gpu.sm} CUDA {gpu.cuda}"

    def _timing(self) -> Path | None:
        return timing_file(self.family, cuda.find_gpu(self.device))


BACKEND = TensorRtBackend()
