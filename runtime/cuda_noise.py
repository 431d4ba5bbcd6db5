"""Start noise as PyTorch draws it on an NVIDIA GPU: what other tools call GPU seeds. No GPU is needed here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.errors import unknown_name

from .noise import torch_seed

BLOCK_THREADS = 256  # block_size_bound in ATen/native/cuda/DistributionTemplates.h
PER_CALL = 4  # what one call of curand4 gives a thread

_ROUNDS = 10
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_LOW, _HALF = np.uint64(0xFFFF_FFFF), np.uint64(32)

_UNIT = np.float32(2**-32)  # CURAND_2POW32_INV
_ANGLE = np.float32(2**-32 * 2 * math.pi)  # CURAND_2POW32_INV_2PI


@dataclass(frozen=True)
class Gpu:
    """What of a GPU decides PyTorch's launch grid: `torch.cuda.get_device_properties` has both numbers."""

    multiprocessors: int
    threads_per_multiprocessor: int

    @property
    def blocks(self) -> int:
        """The most blocks that one draw is spread over."""
        return self.multiprocessors * (self.threads_per_multiprocessor // BLOCK_THREADS)


GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        "t4": Gpu(40, 1024),
        "v100": Gpu(80, 2048),
        "a10": Gpu(72, 1536),
        "a100": Gpu(108, 2048),
        "rtx3090": Gpu(82, 1536),
        "rtx4090": Gpu(128, 1536),
        "rtx5090": Gpu(170, 1536),
        "l4": Gpu(58, 1536),
        "l40s": Gpu(142, 1536),
        "h100": Gpu(132, 2048),  # SXM; the PCIe card has 114
        "h200": Gpu(132, 2048),
        "b200": Gpu(148, 2048),
    }
)
_NUMBERS = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{2,4})")


def parse_gpu(name: str) -> Gpu:
    """`"rtx4090"`, or multiprocessors x threads of each: `"128x1536"`.

    Raises:
        InputError: neither.
    """
    if numbers := _NUMBERS.fullmatch(name):
        gpu = Gpu(int(numbers[1]), int(numbers[2]))
        if gpu.blocks:
            return gpu
    if name not in GPUS:
        raise unknown_name("GPU", name, [*GPUS, "or MULTIPROCESSORSxTHREADS such as 128x1536"])
    return GPUS[name]


class TorchCudaNoise:
    """PyTorch's CUDA generator: `torch.Generator("cuda").manual_seed(seed)`, then `torch.randn` in float32 on the GPU.

    Philox4x32-10, keyed with the whole seed; a thread's number is the upper half of its counter. A draw is laid out as
    `calc_execution_policy` and `distribution_elementwise_grid_stride_kernel` of ATen's `DistributionTemplates.h` do,
    the normals made as cuRAND's `curand_normal4` does. With fewer elements than a GPU has threads, each thread gives
    one, and all GPUs agree; beyond that the layout depends on the `gpu`. Without one there is a thread for every
    element: any GPU up to its number of threads (40,960 on a T4, 196,608 on an RTX 4090; a 512x512 picture needs
    16,384), and what the web UIs' NV source gives for any size.

    Checked without a GPU: Philox against Random123's known answers, the layout against the kernel written out thread
    by thread, the normals against printed values of real GPUs, to the four decimals they have. Not checked on a
    device: draws larger than the grid, and the last bits: cuRAND takes the GPU's fast sine, of 2**-21 absolute error,
    which no CPU repeats. `python -m latentrt.benchmarks.cuda_noise` records a GPU's own answers for the tests.

    Args:
        seed: what `torch.manual_seed` accepts, from -2**63 to 2**64 - 1. All 64 bits count.
        gpu: whose grid to follow; None for a thread per element.

    Raises:
        InputError: another seed.
    """

    def __init__(self, seed: SupportsIndex, gpu: Gpu | None = None) -> None:
        self._seed = torch_seed(seed)
        self._gpu = gpu
        self._calls = 0  # curand4 calls of each thread so far: a quarter of the generator's philox offset

    def integers(self, count: int) -> NDArray[np.uint32]:
        """The next `count` integers of 32 bits; shape (count,). `Tensor.random_()` of int32 keeps their low 31 bits."""
        return self._drawn(count).reshape(-1)[:count]

    def normal(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """The next standard normals, as `torch.randn(shape, device="cuda")` gives them; float32."""
        size = math.prod(shape)
        bits = self._drawn(size)  # (calls, 4, threads)
        sines, cosines = _box_muller(bits[:, 0::2], bits[:, 1::2])
        z = np.stack([sines, cosines], axis=2)  # (calls, 2, 2, threads): x, y, z, w of each float4
        return z.reshape(-1)[:size].reshape(tuple(shape))

    def _drawn(self, count: int) -> NDArray[np.uint32]:
        """Whole calls of curand4 by every thread, in the order of the tensor: (calls, 4, threads)."""
        blocks = math.ceil(count / BLOCK_THREADS)
        if self._gpu is not None:
            blocks = min(blocks, self._gpu.blocks)
        threads = blocks * BLOCK_THREADS
        calls = math.ceil(count / (threads * PER_CALL)) if count else 0
        first, self._calls = self._calls, self._calls + calls
        call = np.arange(first, first + calls, dtype=np.uint64)[:, None]
        counter = np.zeros((4, calls, threads), np.uint64)
        counter[0], counter[1] = call & _LOW, call >> _HALF
        counter[2] = np.arange(threads, dtype=np.uint64)
        return philox4x32(counter, (self._seed & 0xFFFF_FFFF, self._seed >> 32)).transpose(1, 0, 2)


def philox4x32(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

    `counter` is (4, ...), each below 2**32, as is `key`; returns the four words of each block, (4, ...).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = p1 >> _HALF ^ c1 ^ np.uint64(k0), p1 & _LOW, p0 >> _HALF ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & 0xFFFF_FFFF, (k1 + _KEY_STEPS[1]) & 0xFFFF_FFFF
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def _box_muller(x: NDArray[np.uint32], y: NDArray[np.uint32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """CuRAND's `_curand_box_muller`: radius from x, angle from y; the sine comes first."""
    u = x.astype(np.float32) * _UNIT + _UNIT / 2  # (0, 1]
    # float64 and one rounding: the GPU multiplies and adds in one instruction
    v = (y.astype(np.float32).astype(np.float64) * np.float64(_ANGLE) + np.float64(_ANGLE / 2)).astype(np.float32)
    radius = np.sqrt(np.float32(-2) * np.log(u))
    return radius * np.sin(v), radius * np.cos(v)
