"""A fixed piece of work, timed before and after each picture: what the machine could do at that moment.

A machine's speed drifts, above all where others share its host: by several percent over minutes, and by a quarter from
one second to the next. A picture's time divided by the yardstick's drifts much less, so that two trials compare by it.
The work is that of a network, in small: products of matrices and passes over memory, on all cores at once. Its threads
never wait, as those of an engine hardly do, and are timed by their processor time: so what another process takes
between two of their steps does not count.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

VERSION = 2  # of the work: another one's seconds are other seconds
LEAST, MOST = 0.05, 1.0  # seconds of one look
_MATRICES, _SIDE = 128, 48  # so small that numpy multiplies each in the thread that asks
_VALUES = 2**17  # of a pass that a core's own cache holds
_ELEMENTS = 2**19  # of one that it does not: 2 MB


def told() -> str:
    """The work, and what it ran on."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"work {VERSION}, numpy {np.__version__}, {blas['name']} {blas['version']}"


class Yardstick:
    """The work, with its arrays made once, and a thread for each core."""

    def __init__(self) -> None:
        count = len(os.sched_getaffinity(0))
        self._works = [_Work(seed) for seed in range(count)]
        self._pool = ThreadPoolExecutor(count, "yardstick")

    def seconds(self, about: float = LEAST) -> float:
        """Look for about so many seconds, between LEAST and MOST; returns the processor time of one pass."""
        until = time.perf_counter() + min(max(about, LEAST), MOST)
        taken, passes = zip(*self._pool.map(lambda work: work.repeated(until), self._works), strict=True)
        return float(sum(taken) / sum(passes))


class _Work:
    """That of one core."""

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._a, self._b = generator.standard_normal((2, _MATRICES, _SIDE, _SIDE), np.float32)
        self._product = np.empty_like(self._a)
        self._values = generator.standard_normal(_VALUES, np.float32)
        self._passed = np.empty_like(self._values)
        self._elements = generator.standard_normal(_ELEMENTS, np.float32)
        self._squares = np.empty_like(self._elements)

    def repeated(self, until: float) -> tuple[float, int]:
        """Pass after pass until then; returns the processor seconds that they took, and how many they were."""
        started, passes = time.thread_time(), 0
        while passes == 0 or time.perf_counter() < until:
            np.matmul(self._a, self._b, out=self._product)
            np.exp(self._values, out=self._passed)
            np.multiply(self._elements, self._elements, out=self._squares)
            passes += 1
        return time.thread_time() - started, passes
