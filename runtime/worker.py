"""The thread that owns a pipeline once requests are submitted to it: engines, loop and generators are its alone."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from latentrt.engines.errors import EngineError

from .live import Live, fail, settle
from .stages import Stages
from .submission import Submission
from .turn import Turn

_T = TypeVar("_T")


class Worker:
    """A thread that draws what is submitted; requests that are there together share calls of the engines."""

    def __init__(self, stages: Stages, on_turn: Callable[[Turn], None] = lambda _: None) -> None:
        self._stages = stages
        self._lock = threading.Condition()
        self._new: deque[Submission] = deque()
        self._tasks: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._closing = False
        self._cancelling = False
        self._defect: BaseException | None = None
        self._busy_since: float | None = None
        self._live = Live(stages, on_turn)  # the thread's own
        self._thread = threading.Thread(target=self._work, name="latentrt", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> BaseException | None:
        """What ended the thread before it was closed, or what the last call of an engine failed with."""
        return self._defect or self._stages.failure

    @property
    def busy_since(self) -> float | None:
        """When the turn under way began, on `time.monotonic`'s clock; None while the thread waits, or has ended."""
        return self._busy_since

    @property
    def is_current(self) -> bool:
        """Whether the caller is the worker's thread, as listeners are."""
        return threading.current_thread() is self._thread

    def submit(self, submission: Submission) -> None:
        """Take a request in; it joins the others, which are not held up.

        Raises:
            EngineError: the pipeline is closed.
        """
        with self._lock:
            self._check_open()
            self._new.append(submission)
            self._lock.notify()

    def call(self, action: Callable[[], _T]) -> _T:
        """Do `action` in the worker's thread, between two steps, and wait for what it returns.

        Raises:
            EngineError: the pipeline is closed.
            Exception: what `action` raised.
        """
        if self.is_current:
            return action()
        outcome: Future[_T] = Future()
        with self._lock:
            self._check_open()
            self._tasks.append((outcome, action))
            self._lock.notify()
        return outcome.result()

    def close(self, *, finish: bool) -> None:
        """Take nothing more; draw what was submitted to its end, or cancel it; return when the thread has ended.

        Raises:
            EngineError: a listener called it, in the thread that would have to wait for itself.
        """
        if self.is_current:
            raise EngineError("a listener cannot close its pipeline: close it from another thread")
        with self._lock:
            self._closing, self._cancelling = True, not finish
            self._lock.notify()
        self._thread.join()

    def _check_open(self) -> None:
        if self._defect is not None:
            raise EngineError(f"the pipeline's thread ended by {self._defect!r}: open it again") from self._defect
        if self._closing:
            raise EngineError("the pipeline is closed: open it again")

    def _work(self) -> None:
        try:
            while self._take():
                self._live.turn()
        except BaseException as error:  # a defect: nobody may wait for ever
            with self._lock:
                self._defect = error
                self._live.take([*self._new])
            self._live.fail(error)
            for outcome, _ in self._tasks:
                fail(outcome, error)
        finally:
            self._busy_since = None

    def _take(self) -> bool:
        """Take what came meanwhile, or wait for it; False where all is drawn and nothing more will come."""
        self._busy_since = None
        with self._lock:
            while not (self._new or self._tasks or self._live or self._closing):
                self._lock.wait()
            tasks = list(self._tasks)
            self._live.take([*self._new])
            self._new.clear()
            self._tasks.clear()
            cancelling = self._cancelling
        self._busy_since = time.monotonic()
        if cancelling:
            self._live.cancel()
        for outcome, action in tasks:
            outcome.set_running_or_notify_cancel()
            settle(outcome, action)
        return bool(self._live or not self._closing)
