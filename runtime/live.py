"""The submissions under way, and whose work is next: texts, a step, pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .drawing import Drawing
from .pace import Pace
from .stages import Asked, Stages, check_drawn
from .submission import Submission
from .turn import Kind, Turn


class _Drawn(NamedTuple):
    """A submission in the loop, or out of it again."""

    submission: Submission
    drawing: Drawing

    @property
    def kind(self) -> tuple[str, int, int]:
        """What pictures that are decoded together have in common: the decoder, height and width in latents."""
        return (self.drawing.plan.decoder, *self.drawing.plan.latent_shape[2:])

    @property
    def undecoded(self) -> range:
        """Which of its pictures are still to be decoded."""
        return range(len(self.submission.decoded), self.drawing.plan.latent_shape[0])


class Live:
    """One thread's: it takes submissions and does their work turn by turn.

    Between two steps there is at most one other turn: the texts of newcomers, in one call of the text encoder, or
    pictures, as many as take no longer than a step. Where both wait, they alternate. So nobody's steps are held up for
    longer than one step takes.
    """

    def __init__(self, stages: Stages, on_turn: Callable[[Turn], None]) -> None:
        self._stages, self._on_turn = stages, on_turn
        self._newcomers: list[Submission] = []
        self._drawn: list[_Drawn] = []  # in the loop
        self._finished: list[_Drawn] = []  # to be decoded, the first to finish first
        self._pace = Pace()
        self._encoded_last = False

    def __len__(self) -> int:
        return len(self._newcomers) + len(self._drawn) + len(self._finished)

    def take(self, submissions: list[Submission]) -> None:
        """Take in what was submitted."""
        self._newcomers += submissions

    def turn(self) -> None:
        """Do what is next between two steps, then a step."""
        self._drop_cancelled()
        if self._newcomers and not (self._finished and self._encoded_last):
            self._encode()
        elif self._finished:
            self._decode()
        self._drop_cancelled()
        self._step()

    def cancel(self) -> None:
        """Cancel all."""
        for submission in self._all():
            submission.cancel()
        self._drop_cancelled()

    def fail(self, error: BaseException) -> None:
        """End all with an error."""
        for submission in self._all():
            fail(submission, error)

    def _all(self) -> list[Submission]:
        return [*self._newcomers, *(one.submission for one in (*self._drawn, *self._finished))]

    def _drop_cancelled(self) -> None:
        gone = {id(one) for one in self._all() if one.cancelled() and not one.set_running_or_notify_cancel()}
        for one in self._drawn:
            if id(one.submission) in gone:
                one.drawing.job.cancel()
        self._newcomers = [one for one in self._newcomers if id(one) not in gone]
        self._drawn = [one for one in self._drawn if id(one.submission) not in gone]
        self._finished = [one for one in self._finished if id(one.submission) not in gone]

    def _encode(self) -> None:
        count = self._stages.in_one_call([one.request for one in self._newcomers])
        some, self._newcomers = self._newcomers[:count], self._newcomers[count:]
        started = time.perf_counter()
        outcomes = self._stages.take_in([Asked(one.request, one.stepped) for one in some])
        for submission, outcome in zip(some, outcomes, strict=True):
            if isinstance(outcome, Exception):
                fail(submission, outcome)
            else:
                submission.joined(outcome)
                self._drawn.append(_Drawn(submission, outcome))
        self._tell("encode", count, sum(one.texts.chunks for one in outcomes if isinstance(one, Drawing)), started)
        self._encoded_last = True

    def _step(self) -> None:
        if not self._drawn:
            return
        started = time.perf_counter()
        jobs = self._stages.step()
        self._pace.stepped(self._tell("step", len(jobs), sum(job.rows for job in jobs), started))
        done = [one for one in self._drawn if one.drawing.job.done]
        self._drawn = [one for one in self._drawn if not one.drawing.job.done]
        for one in done:
            try:
                check_drawn(one.drawing)
            except Exception as error:  # there is nothing to decode
                fail(one.submission, error)
            else:
                self._finished.append(one)

    def _decode(self) -> None:
        kind = self._finished[0].kind
        waiting = [(one, index) for one in self._finished if one.kind == kind for index in one.undecoded]
        some = waiting[: self._pace.pictures(kind)]
        started = time.perf_counter()
        decoded = self._stages.decode(np.stack([check_drawn(one.drawing)[index] for one, index in some]), kind[0])
        for (one, _), picture in zip(some, decoded, strict=True):
            one.submission.decoded.append(picture)
        requests = len({id(one.submission) for one, _ in some})
        self._pace.decoded(kind, len(some), self._tell("decode", requests, len(some), started))
        self._encoded_last = False
        done = [one for one in self._finished if not one.undecoded]
        self._finished = [one for one in self._finished if one.undecoded]
        for one in done:
            if one.submission.set_running_or_notify_cancel():
                settle(one.submission, partial(self._stages.result, one.drawing, one.submission.decoded))

    def _tell(self, kind: Kind, requests: int, rows: int, started: float) -> float:
        """Tell of a turn that ends now; returns its seconds."""
        seconds = time.perf_counter() - started
        self._on_turn(Turn(kind, requests, rows, seconds))
        return seconds


def settle(outcome: Future[Any], action: Callable[[], Any]) -> None:
    """Give a running future what `action` returns, or raises."""
    try:
        outcome.set_result(action())
    except Exception as error:
        outcome.set_exception(error)


def fail(outcome: Future[Any], error: BaseException) -> None:
    """End a future that is not running with an error, where nobody cancelled it."""
    if outcome.set_running_or_notify_cancel():
        outcome.set_exception(error)
