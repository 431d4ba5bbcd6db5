"""One activation memory for all engines of a pipeline and GPU: they run in turn, and the largest sizes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from .memory import DeviceMemory

_ALIGNED = 256  # bytes; also the least, since an engine may need none and must be given an address


class Memory(Protocol):
    """What an arena hands out."""

    address: int
    size: int

    def close(self) -> None:
        """Give it back."""


class Arena:
    """Grows to the largest size that was asked for, when nobody uses it; given back when its last user leaves."""

    def __init__(self, allocate: Callable[[int], Memory] = DeviceMemory) -> None:
        self._allocate = allocate
        self._lock = threading.Lock()
        self._memory: Memory | None = None
        self._users = 0

    def join(self) -> None:
        """Count one more engine."""
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        """Count one engine less."""
        with self._lock:
            self._users -= 1
            if not self._users and self._memory is not None:
                memory, self._memory = self._memory, None
                memory.close()

    @contextmanager
    def held(self, size: int) -> Iterator[Memory]:
        """At least `size` bytes, for this engine alone while the block runs. Its address may differ from last time's.

        Raises:
            EngineError: the GPU has not that much memory left.
        """
        with self._lock:
            if self._memory is None or self._memory.size < size:
                if self._memory is not None:
                    memory, self._memory = self._memory, None
                    memory.close()  # before the larger one is asked for: both may not fit
                self._memory = self._allocate(max(size, _ALIGNED))
            yield self._memory
