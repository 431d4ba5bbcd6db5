"""A fixed piece of work, timed between pictures: what a core could do at that moment.

A machine's speed drifts by several percent over minutes, above all where others share its host. A picture's time
divided by the yardstick's drifts less, so that two trials compare by it. The work is that of a network, in small:
products of matrices, and passes over memory. It is timed by the processor time of its one thread, which other
processes can hardly lengthen.
"""

from __future__ import annotations

import time

import numpy as np

VERSION = 1  # of the work: another one's seconds are other seconds
SIDE = 96  # of the matrices: so small that numpy multiplies them in this thread
VALUES = 2**15  # of a pass that a core's own cache holds
ELEMENTS = 2**19  # of one that it does not: 2 MB
_PASSES = 60
_TIMES = 8  # about 20 ms together, of which the low end counts
_LOW_END = 0.25


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
        self._values = generator.standard_normal(VALUES, np.float32)
        self._passed = np.empty_like(self._values)
        self._elements = generator.standard_normal(ELEMENTS, np.float32)
        self._squares = np.empty_like(self._elements)

    def seconds(self) -> float:
        """Do it a few times; returns the low end of the processor time that it took."""
        return float(np.quantile([self._once() for _ in range(_TIMES)], _LOW_END))

    def _once(self) -> float:
        started = time.thread_time()
        for _ in range(_PASSES):
            np.matmul(self._a, self._b, out=self._product)
            np.exp(self._values, out=self._passed)
            np.multiply(self._passed, self._values, out=self._passed)
        np.multiply(self._elements, self._elements, out=self._squares)
        return time.thread_time() - started
