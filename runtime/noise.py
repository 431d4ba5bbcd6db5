"""Start noise: PyTorch's own random stream, drawn in numpy, so that a seed gives the picture it gives in diffusers.

A source of noise belongs to one request: its draws come in that request's order, whatever else is running. PyTorch has
one stream per kind of device; each is a class here that follows `NoiseSource`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Protocol, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.errors import InputError

MIN_SEED = -0x8000_0000_0000_0000
MAX_SEED = 0xFFFF_FFFF_FFFF_FFFF

BLOCK = 16  # normals that PyTorch makes at a time: 8 cosines, then their 8 sines
HALF = BLOCK // 2
TWO_PI = np.float32(2 * math.pi)

UNIFORM_BITS = 24  # mantissa of float32, hidden bit included
DOUBLE_BITS = 53  # mantissa of float64, hidden bit included


class NoiseSource(Protocol):
    """A stateful stream of standard normals: each draw goes on where the last one ended."""

    def normal(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """The next `prod(shape)` normals, as float32 of this shape."""
        ...


def torch_seed(seed: SupportsIndex) -> int:
    """The unsigned 64-bit seed that `torch.manual_seed(seed)` keeps: a negative one wraps around, -1 to 2**64 - 1.

    Raises:
        InputError: not an integer (a bool is none), or outside of what PyTorch accepts.
    """
    wanted = f"expected an integer from {MIN_SEED} to {MAX_SEED}"
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise InputError(f"seed: {wanted}, found {_shown(seed)} of type {type(seed).__name__}")
    try:
        value = operator.index(seed)
    except TypeError:  # an array of several integers, a tensor of floats
        raise InputError(f"seed: {wanted}, found a value of type {type(seed).__name__}") from None
    if not MIN_SEED <= value <= MAX_SEED:
        raise InputError(f"seed: {wanted}, found {_shown(value)}")
    return value % 2**64


def _shown(value: object) -> str:
    """`value` for a message of one line; hexadecimal for a huge integer, which Python declines to print in decimal."""
    text = hex(value) if isinstance(value, int) and value.bit_length() > 128 else repr(value)
    return text if len(text) <= 48 else text[:45] + "..."


class TorchCpuNoise:
    """PyTorch's CPU generator: `torch.Generator().manual_seed(seed)`, then `torch.randn` once per call of `normal`.

    mt19937, seeded with the low 32 bits of the seed, as `at::CPUGeneratorImpl` does; the normals as `normal_fill` and
    `normal_distribution` of ATen's `DistributionTemplates.h` and `DistributionsHelper.h` do. Uniforms are PyTorch's bit
    for bit. Normals agree within 1e-6 with PyTorch on AVX2 or AVX-512, whose float32 angle is computed here too. On
    other CPUs PyTorch rounds that angle from float64, and so differs from itself: one normal in 300,000 by more than
    2e-6, none of 42 million by more than 2.51e-6.

    Args:
        seed: what `torch.manual_seed` accepts, from -2**63 to 2**64 - 1.

    Raises:
        InputError: another seed.
    """

    def __init__(self, seed: SupportsIndex) -> None:
        # RandomState, not the newer Generator: it seeds mt19937 by init_genrand, and numpy froze its stream.
        self._mt19937 = np.random.RandomState(torch_seed(seed) & 0xFFFF_FFFF)
        self._spare = np.empty(0)  # the sine of a small draw of odd size: the next small draw begins with it

    def uniform(self, count: int) -> NDArray[np.float32]:
        """The next `count` uniforms in [0, 1), multiples of 2**-24: what `torch.rand(count)` gives; shape (count,)."""
        bits = self._integers(count) & np.uint32(2**UNIFORM_BITS - 1)
        return bits.astype(np.float32) * np.float32(2**-UNIFORM_BITS)

    def normal(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """The next standard normals, as `torch.randn(shape)` gives them; float32.

        As in PyTorch, one draw of (2, n) equals two draws of (n,) only when n is a multiple of 16.
        """
        size = math.prod(shape)
        flat = self._large(size) if size >= BLOCK else self._small(size)
        return flat.reshape(tuple(shape))

    def _large(self, size: int) -> NDArray[np.float32]:
        """Float32 normals in blocks of 16; a last block that is not whole is drawn anew, over the last 16 values."""
        whole = size - size % BLOCK
        u = self.uniform(size)
        z = np.empty(size, np.float32)
        _box_muller(u[:whole].reshape(-1, BLOCK), out=z[:whole].reshape(-1, BLOCK))
        if whole < size:
            _box_muller(self.uniform(BLOCK).reshape(1, BLOCK), out=z[-BLOCK:].reshape(1, BLOCK))
        return z

    def _small(self, size: int) -> NDArray[np.float32]:
        """Float64 normals in pairs, rounded to float32; what is left of a pair waits for the next small draw."""
        pairs = max(0, math.ceil((size - len(self._spare)) / 2))
        u = self._double_uniforms(2 * pairs).reshape(pairs, 2)
        radius = np.sqrt(-2 * np.log1p(-u[:, 1]))
        theta = 2 * math.pi * u[:, 0]
        z = np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1)  # (pairs, 2)
        z = np.concatenate([self._spare, z.ravel()])
        self._spare = z[size:]
        return z[:size].astype(np.float32)

    def _double_uniforms(self, count: int) -> NDArray[np.float64]:
        """Float64 uniforms in [0, 1), each of 53 bits out of two integers, the high half first; shape (count,)."""
        high, low = self._integers(2 * count).reshape(count, 2).astype(np.uint64).T
        bits = (high << np.uint64(32) | low) & np.uint64(2**DOUBLE_BITS - 1)
        return bits.astype(np.float64) * 2.0**-DOUBLE_BITS

    def _integers(self, count: int) -> NDArray[np.uint32]:
        """The next integers of mt19937, each of 32 bits; shape (count,)."""
        return self._mt19937.randint(0, 2**32, size=count, dtype=np.uint32)


def _box_muller(u: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Turn rows of 16 uniforms into rows of 16 normals, in float32 and in the order of ATen's `normal_fill_16`."""
    u1 = 1 - u[:, :HALF]  # [0, 1) -> (0, 1], for the logarithm
    radius = np.sqrt(-2 * np.log(u1))
    theta = TWO_PI * u[:, HALF:]
    np.multiply(radius, np.cos(theta), out=out[:, :HALF])
    np.multiply(radius, np.sin(theta), out=out[:, HALF:])
