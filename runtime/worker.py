"""The thread that owns a pipeline once requests are submitted to it: engines, loop and generators are its alone."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from latentrt.engines.errors import EngineError

from .drawing import Drawing, Result
from .loop import Job, Step
from .request import Request
from .submission import Submission
from .turn import Turn

_T = TypeVar("_T")


class Drawer(Protocol):
    """What the worker asks of a pipeline."""

    def take_in(self, request: Request, on_step: Callable[[Step], None] | None = None) -> Drawing:
        """Take a request into the loop."""

    def step(self) -> list[Job]:
        """Answer one question of every request of one size."""

    def finish(self, drawing: Drawing) -> Result:
        """Decode a request whose job is done."""


class Worker:
    """A thread that draws what is submitted; requests that are there together share calls of the UNet."""

    def __init__(self, drawer: Drawer, on_turn: Callable[[Turn], None] = lambda _: None) -> None:
        self._drawer = drawer
        self._on_turn = on_turn
        self.failed: BaseException | None = None  # what ended the thread before it was closed
        self._lock = threading.Condition()
        self._new: deque[Submission] = deque()
        self._tasks: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._closing = False
        self._live: list[Submission] = []  # the thread's own
        self._thread = threading.Thread(target=self._work, name="latentrt", daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether the caller is the worker's thread, as listeners are."""
        return threading.current_thread() is self._thread

    def submit(self, submission: Submission) -> None:
        """Take a request in; it joins the others before the next step.

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
            self._closing = True
            waiting = [*self._new, *self._live]
            self._lock.notify()
        if not finish:
            for submission in waiting:
                submission.cancel()
        self._thread.join()

    def _check_open(self) -> None:
        if self._closing:
            raise EngineError("the pipeline is closed: open it again")

    def _work(self) -> None:
        try:
            while self._take():
                self._drop_cancelled()
                self._step()
                self._settle_done()
        except BaseException as error:  # a defect: nobody may wait for ever
            self.failed = error
            with self._lock:
                self._closing = True
                self._live += self._new
            for waiting in [*self._live, *(outcome for outcome, _ in self._tasks)]:
                _fail(waiting, error)

    def _take(self) -> bool:
        """Take what came meanwhile, or wait for it; False where all is drawn and nothing more will come."""
        with self._lock:
            while not (self._new or self._tasks or self._live or self._closing):
                self._lock.wait()
            new, tasks = list(self._new), list(self._tasks)
            self._new.clear()
            self._tasks.clear()
            self._live += new
        for outcome, action in tasks:
            outcome.set_running_or_notify_cancel()
            _settle(outcome, action)
        for submission in new:
            self._start(submission)
        return bool(self._live or not self._closing)

    def _start(self, submission: Submission) -> None:
        if submission.cancelled():
            return
        try:
            submission.drawing = self._drawer.take_in(submission.request, submission.stepped)
            submission.warnings = submission.drawing.texts.warnings
        except Exception as error:  # of one request: the others go on
            self._live.remove(submission)
            _fail(submission, error)

    def _step(self) -> None:
        started = time.perf_counter()
        if jobs := self._drawer.step():
            rows = sum(job.rows for job in jobs)
            self._on_turn(Turn("step", len(jobs), rows, time.perf_counter() - started))

    def _drop_cancelled(self) -> None:
        for submission in [one for one in self._live if one.cancelled()]:
            if submission.drawing is not None:
                submission.drawing.job.cancel()
            self._live.remove(submission)
            submission.set_running_or_notify_cancel()

    def _settle_done(self) -> None:
        done = [one for one in self._live if one.drawing is not None and one.drawing.job.done]
        for submission in done:
            drawing = submission.drawing
            assert drawing is not None
            self._live.remove(submission)
            if submission.set_running_or_notify_cancel():
                _settle(submission, lambda drawing=drawing: self._drawer.finish(drawing))  # type: ignore[misc]


def _settle(outcome: Future[Any], action: Callable[[], Any]) -> None:
    try:
        outcome.set_result(action())
    except Exception as error:
        outcome.set_exception(error)


def _fail(outcome: Future[Any], error: BaseException) -> None:
    if outcome.set_running_or_notify_cancel():
        outcome.set_exception(error)
