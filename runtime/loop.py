"""The denoising loop: live requests ask, one denoiser answers as many as a call holds, each goes on at its own pace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from .denoiser import Conditioning, Denoiser, Question
from .query import Query, Sampling
from .scheduling import Past, Waiting, choose


@dataclass(frozen=True, eq=False)
class Step:
    """One finished step of one request: `index` of `total`, its noise level, and the clean latent seen from there.

    `denoised` is (n, 4, h, w) float32, in latent units: what the picture would become if the loop stopped here.
    """

    index: int
    total: int
    sigma: float
    denoised: NDArray[np.float32]


class Job:
    """A request in the loop: its sampler's coroutine, stopped at a question, or its outcome.

    `on_step` hears of every finished step, in the thread that owns the loop.
    """

    def __init__(
        self,
        sampling: Sampling,
        conditioning: Conditioning,
        steps: int,
        final_scale: np.float32 = np.float32(1),  # noqa: B008 - an immutable number
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        self.steps = steps
        self.rows = 0  # of the UNet, for the last question that was answered
        self.latents: NDArray[np.float32] | None = None
        self.error: Exception | None = None
        self._sampling = sampling
        self._conditioning = conditioning
        self._final_scale = final_scale
        self._on_step = on_step
        self._query: Query | None = None
        self._step_sigma = 0.0
        self._advance(None)

    @property
    def done(self) -> bool:
        """Whether the request asks no more: it finished, failed or was cancelled."""
        return self._query is None

    @property
    def question(self) -> Question:
        """The open question; only while not `done`."""
        assert self._query is not None
        return Question(self._query, self._conditioning)

    def cancel(self) -> None:
        """Leave the loop now; `latents` stays None."""
        self._sampling.close()
        self._query = None

    def answer(self, denoised: NDArray[np.float32]) -> None:
        """Give the coroutine its answer and run it to its next question, or to its end."""
        question, sigma = self.question, self._step_sigma
        index, self.rows = question.query.step, question.rows
        self._advance(denoised)
        finished_step = self._query is None or self._query.step != index
        if self._on_step is not None and self.error is None and finished_step:
            try:
                self._on_step(Step(index, self.steps, sigma, denoised))
            except Exception as error:  # a listener's failure, too, ends its own request alone
                self.fail(error)

    def fail(self, error: Exception) -> None:
        """Leave the loop with an error."""
        self.cancel()
        self.error = error

    def _advance(self, answer: NDArray[np.float32] | None) -> None:
        try:
            query = next(self._sampling) if answer is None else self._sampling.send(answer)
            if self._query is None or query.step != self._query.step:
                self._step_sigma = query.sigma  # a step may ask again, from elsewhere
            self._query = query
        except StopIteration as finished:
            self._query = None
            self.latents = finished.value * self._final_scale
        except Exception as error:  # one request's failure ends that request alone
            self._query = None
            self.error = error


class DenoisingLoop:
    """The requests under way. One thread owns it, together with the engines.

    Each step is one call of the UNet, of at most `max_rows` rows; whom it answers, `scheduling.choose` says. `failure`
    is what the last call failed with, None where it did not.
    """

    def __init__(self, denoiser: Denoiser, max_rows: int) -> None:
        self.failure: Exception | None = None
        self._denoiser = denoiser
        self._max_rows = max_rows
        self._jobs: dict[int, Job] = {}  # in order of arrival
        self._arrivals = count()
        self._past = Past()

    def __len__(self) -> int:
        return sum(not job.done for job in self._jobs.values())

    def join(self, job: Job) -> None:
        """Take a request in; it may be part of the next step."""
        self._jobs[next(self._arrivals)] = job

    def step(self) -> list[Job]:
        """Answer one question each of the requests whose turn it is; returns those requests.

        Requests that finish, fail or were cancelled leave the loop.
        """
        self._jobs = {arrival: job for arrival, job in self._jobs.items() if not job.done}
        choice = choose([_waiting(arrival, job) for arrival, job in self._jobs.items()], self._max_rows, self._past)
        self._past = choice.past
        chosen = [self._jobs[arrival] for arrival in choice.ids]
        if chosen:
            self._answer(chosen)
        return chosen

    def _answer(self, jobs: list[Job]) -> None:
        self.failure = None
        try:
            answers: Iterable[NDArray[np.float32]] = self._denoiser.answer([job.question for job in jobs])
        except Exception as error:
            self.failure = error
            for job in jobs:
                job.fail(error)
            return
        for job, answer in zip(jobs, answers, strict=True):
            if not job.done:  # a listener of another may have cancelled it
                job.answer(answer)


def _waiting(arrival: int, job: Job) -> Waiting:
    question = job.question
    group = (*question.query.x.shape[2:], len(question.conditioning.positive))  # latent height and width, tokens
    return Waiting(arrival, group, question.rows, job.steps)
