"""A fixed piece of work, timed between pictures: what the machine could do at that moment.

A machine's speed drifts by several percent over minutes, above all where others share its host. A picture's time
divided by the yardstick's drifts less, so that two trials compare by it. It does what a network does: products of
matrices, and passes over memory that no cache holds.
"""

from __future__ import annotations

import time

import numpy as np

VERSION = 1  # of the work: another one's seconds are other seconds
SIDE = 512  # of the matrices: 3 MB, products of 0.27 GFLOP
ELEMENTS = 2**21  # 8 MB a pass
_TIMES = 3  # the least of so many: the first may find the cores asleep, or the caches full of the picture


def told() -> str:
    """The work, and what it ran on."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"work {VERSION}, numpy {np.__version__}, {blas['name']} {blas['version']}"


class Yardstick:
    """The work, with its arrays made once."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self._a, self._b = generator.standard_normal((2, SIDE, SIDE), np.float32)
        self._product = np.empty_like(self._a)
        self._values = generator.standard_normal(ELEMENTS, np.float32)
        self._passed = np.empty_like(self._values)

    def seconds(self) -> float:
        """Do it a few times; returns the shortest."""
        return min(self._once() for _ in range(_TIMES))

    def _once(self) -> float:
        started = time.perf_counter()
        for _ in range(4):
            np.matmul(self._a, self._b, out=self._product)
        np.exp(self._values, out=self._passed)
        np.multiply(self._passed, self._values, out=self._passed)
        return time.perf_counter() - started
