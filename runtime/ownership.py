"""Which thread has a pipeline's engines: whoever calls, or the worker from the first request on that is submitted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from latentrt.engines.errors import EngineError

from .stages import Stages
from .turn import Turn
from .worker import Worker

_T = TypeVar("_T")


class Ownership:
    """The stages of one pipeline, its engines and its loop, held by one thread at a time."""

    def __init__(self, stages: Stages, on_turn: Callable[[Turn], None]) -> None:
        self._stages, self._on_turn = stages, on_turn
        self._worker: Worker | None = None
        self._handing_over = threading.Lock()
        self._in_use = threading.RLock()
        self._closed = False

    def worker(self) -> Worker:
        """The thread that draws what is submitted; started when it is first asked for.

        Raises:
            EngineError: closed, or another thread is drawing.
        """
        with self._handing_over:
            if self._closed:
                raise EngineError("the pipeline is closed: open it again")
            if self._worker is None:
                self._worker = self._started()
            return self._worker

    @property
    def shared(self) -> Worker | None:
        """The worker, once requests were submitted."""
        return self._worker

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the engines for this thread while the block lasts.

        Raises:
            EngineError: they are the worker's.
        """
        with self._in_use:
            if self._worker is not None and not self._worker.is_current:
                raise EngineError(
                    "requests were submitted to this pipeline, and its own thread draws them: use submit() or "
                    "generate()"
                )
            yield

    def call(self, action: Callable[[], _T]) -> _T:
        """Do something with the engines, in the thread that has them."""
        if self._worker is not None:
            return self._worker.call(action)
        with self.held():
            return action()

    def close(self, *, finish: bool) -> None:
        """Start no worker any more; let the one there is finish what it was given, or cancel it."""
        with self._handing_over:
            worker, self._closed = self._worker, True
        if worker is not None:
            worker.close(finish=finish)

    def _started(self) -> Worker:
        free = self._in_use.acquire(blocking=False)
        try:
            if not free or self._stages.live:
                raise EngineError("requests of generate(), start() or stream() are being drawn: finish or cancel them")
            return Worker(self._stages, self._on_turn)
        finally:
            if free:
                self._in_use.release()
