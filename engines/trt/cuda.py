"""CUDA by way of cuda-python: calls that raise, and the GPU that is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import EngineError

try:
    from cuda.bindings import runtime as cudart
except ImportError as error:
    raise EngineError(
        "engines on NVIDIA GPUs need cuda-python: pip install 'latentrt[tensorrt]', or 'latentrt[rtx]'"
    ) from error

__all__ = ["Gpu", "call", "cudart", "find_gpu", "no_gpu", "use", "used_bytes"]


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU: `"NVIDIA GeForce RTX 4090"`, `"sm89"`, and the newest CUDA that its driver runs, `"13.0"`."""

    name: str
    sm: str
    cuda: str

    @property
    def capability(self) -> int:
        """The number in `sm`: 89."""
        return int(self.sm.removeprefix("sm"))


def call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """The result of a CUDA function, or None.

    Raises:
        EngineError: it failed.
    """
    code, *results = function(*arguments)
    if code != cudart.cudaError_t.cudaSuccess:
        raise EngineError(f"{function.__name__} failed: {_words(code)}")
    return results[0] if len(results) == 1 else results or None


def no_gpu(device: int) -> str | None:
    """Why there is no GPU of this number to run on; None if there is one."""
    driver = _driver()
    if driver == "0.0":
        return "no NVIDIA driver: install one, and see that nvidia-smi lists a GPU"
    code, count = cudart.cudaGetDeviceCount()
    if code == cudart.cudaError_t.cudaErrorInsufficientDriver:
        return f"the NVIDIA driver runs CUDA up to {driver}, and cuda-python is for a newer one: upgrade the driver"
    if code != cudart.cudaError_t.cudaSuccess:
        return f"no NVIDIA GPU: {_words(code)}"
    if device >= count:
        return f"there is no GPU {device}: this machine has {count}, counted from 0"
    return None


def find_gpu(device: int) -> Gpu:
    """The GPU of this number.

    Raises:
        EngineError: there is none; it says why.
    """
    if reason := no_gpu(device):
        raise EngineError(reason)
    properties = call(cudart.cudaGetDeviceProperties, device)
    name = properties.name.split(b"\0")[0].decode(errors="replace")
    return Gpu(name, f"sm{properties.major}{properties.minor}", _driver())


def used_bytes(device: int) -> int:
    """What is taken of a GPU's memory, by all processes together."""
    use(device)
    free, total = call(cudart.cudaMemGetInfo)
    return int(total - free)


def use(device: int) -> None:
    """Make the calling thread's CUDA calls go to this GPU."""
    call(cudart.cudaSetDevice, device)


def _driver() -> str:
    version = call(cudart.cudaDriverGetVersion)  # 13010 for 13.1; 0 without a driver
    return f"{version // 1000}.{version % 1000 // 10}"


def _words(code: Any) -> str:
    return str(cudart.cudaGetErrorString(code)[1].decode())
