"""The three stages of a picture, each done for several requests at once: its texts, its steps, its decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import EngineError, InputError
from latentrt.engines.manifest import SAFETY_CHECKER, TEXT_ENCODER, UNET, decoder_component
from latentrt.engines.version import __version__

from .conditioning import conditioning, is_guided
from .denoiser import Denoiser
from .drawing import Decoded, Drawing, Result
from .facts import request_facts
from .loop import DenoisingLoop, Job, Step
from .open_engines import OpenEngines
from .picture import check_finite, to_image
from .prompt.encoder import EncodedPrompts, PromptEncoder, Reading
from .prompt.token_table import TokenTable
from .query import Sampling
from .request import Plan, Request, plan
from .safety import SafetyChecker, verdict
from .samplers import sampler_with_eta
from .seeds import open_noise, start_noise
from .tokenizer import ClipTokenizer

_T = TypeVar("_T")
_U = TypeVar("_U")


class Asked(NamedTuple):
    """A request, and who hears of its finished steps."""

    request: Request
    on_step: Callable[[Step], None] | None = None


class _Start(NamedTuple):
    """A request that was checked, before its texts are encoded."""

    asked: Asked
    plan: Plan
    sampling: Sampling
    reading: Reading


class Stages:
    """The engines of a bundle and the loop, at work. One thread owns it.

    What fails on the way of one request is that request's outcome; the others go on.
    """

    def __init__(self, bundle: Bundle, engines: OpenEngines, max_rows: int, *, safety_checker: bool) -> None:
        self._bundle, self._engines, self._max_rows = bundle, engines, max_rows
        self._failures: dict[str, Exception] = {}  # by component, what its last call failed with
        unet = engines[UNET]
        tokenizer = ClipTokenizer.from_file(bundle.file(bundle.manifest.tokenizer))
        table = TokenTable(bundle.file(bundle.manifest.token_embedding))
        self.prompts = PromptEncoder(tokenizer, table, engines[TEXT_ENCODER], max_rows)
        facts = bundle.manifest.safety_checker if safety_checker else None
        self.safety_checker = None if facts is None else SafetyChecker(engines[SAFETY_CHECKER], bundle, facts)
        rows = max_rows if engines.residency is None else engines.residency.rows
        self._loop = DenoisingLoop(Denoiser(unet, bundle.manifest.model.prediction_type, rows), max_rows)

    @property
    def live(self) -> int:
        """Requests in the loop that are not done."""
        return len(self._loop)

    @property
    def failure(self) -> Exception | None:
        """What the last call of some engine failed with; None where that of each succeeded."""
        return next(iter(self._failures.values()), None)

    def in_one_call(self, requests: Sequence[Request]) -> int:
        """How many of the requests, from the first on, fit one call of the text encoder; at least one."""
        unet = self._bundle.component(UNET)
        texts = (one.max_prompt_chunks * (2 if is_guided(one, unet) else 1) for one in requests)
        return max(1, sum(total <= self._max_rows for total in accumulate(texts)))

    def take_in(self, asked: Sequence[Asked]) -> list[Drawing | Exception]:
        """Encode the texts of requests together, and take each into the loop; for one that fails, its error."""
        starts = [_attempt(self._start, one) for one in asked]
        texts = iter(self._encoded([one.reading for one in starts if isinstance(one, _Start)]))
        return [one if isinstance(one, Exception) else self._joined(one, next(texts)) for one in starts]

    def step(self) -> list[Job]:
        """Answer one question each of the requests whose turn it is; returns their jobs."""
        jobs = self._loop.step()
        if jobs:
            self._note(UNET, self._loop.failure)
        return jobs

    def decode(self, latents: NDArray[np.float32], decoder: str) -> list[Decoded | Exception]:
        """Latents (n, 4, h, w) of one size or of many requests, to checked pictures; for one that fails, its error."""
        try:
            with self._noted(decoder_component(decoder)):
                pixels = self._engines.decode(decoder_component(decoder), latents)
        except Exception as error:
            alone = [latents[i : i + 1] for i in range(len(latents))]
            return [error] if len(alone) == 1 else [self.decode(one, decoder)[0] for one in alone]
        return [_attempt(self._checked, one) for one in pixels]

    def finish(self, drawing: Drawing) -> Result:
        """Decode all of a request whose job is done.

        Raises:
            EngineError, NanPictureError, Exception: as `check_drawn` and `result`.
        """
        return self.result(drawing, self.decode(check_drawn(drawing), drawing.plan.decoder))

    def result(self, drawing: Drawing, decoded: Sequence[Decoded | Exception]) -> Result:
        """The outcome of a request of whose pictures each was decoded.

        Raises:
            NanPictureError: a picture holds NaN or infinity.
            Exception: what one of them failed with.
        """
        for one in decoded:
            if isinstance(one, Exception):
                raise one
        pictures = [one for one in decoded if isinstance(one, Decoded)]
        pixels = [one.pixels for one in pictures]
        check_finite(pixels, "the decoder")
        flagged = None if self.safety_checker is None else [bool(one.flagged) for one in pictures]
        facts = [self._facts(drawing, i, flagged) for i in range(len(pixels))]
        images = [to_image(one, fact) for one, fact in zip(pixels, facts, strict=True)]
        return Result(images, check_drawn(drawing), facts, flagged)

    def _start(self, asked: Asked) -> _Start:
        request = asked.request
        planned = plan(request, self._bundle.manifest)
        self._engines.check_start(request, planned)
        noise = open_noise(request, planned.latent_shape[0])
        start = start_noise(request, noise, planned.latent_shape) if request.latents is None else request.latents
        x = start * np.float32(planned.schedule.init_scale)
        sampling = sampler_with_eta(request.sampler, request.eta)(x, planned.schedule, noise)
        reading = self.prompts.read(request, guided=is_guided(request, self._bundle.component(UNET)))
        return _Start(asked, planned, sampling, reading)

    def _encoded(self, readings: Sequence[Reading]) -> list[EncodedPrompts | Exception]:
        """Together; one by one where that fails, and under a memory budget, which counts one request's texts."""
        if not readings:
            return []
        alone = [[one] for one in readings]
        if len(alone) > 1 and self._engines.residency is not None:
            return [self._encoded(one)[0] for one in alone]
        try:
            with self._noted(TEXT_ENCODER):
                return [*self.prompts.embed(readings)]
        except Exception as error:
            return [error] if len(alone) == 1 else [self._encoded(one)[0] for one in alone]

    def _joined(self, start: _Start, texts: EncodedPrompts | Exception) -> Drawing | Exception:
        if isinstance(texts, Exception):
            return texts
        (request, on_step), planned = start.asked, start.plan
        try:
            self._engines.check_held(UNET, planned, len(texts.positive))
        except (InputError, EngineError) as error:
            return error
        asked_with = conditioning(texts, request, self._bundle.component(UNET))
        schedule = planned.schedule
        job = Job(start.sampling, asked_with, schedule.steps, np.float32(schedule.final_scale), on_step)
        self._loop.join(job)
        return Drawing(request, planned, texts, job)

    def _checked(self, pixels: NDArray[np.float32]) -> Decoded:
        """A decoded picture (3, height, width), looked at by the safety checker; NaN is told of with the result."""
        if self.safety_checker is None or not np.isfinite(pixels).all():
            return Decoded(pixels)
        with self._noted(SAFETY_CHECKER):
            [shown], [flagged] = self.safety_checker.replace_flagged(pixels[None])
        return Decoded(shown, flagged)

    @contextmanager
    def _noted(self, component: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._note(component, error)
            raise
        self._note(component, None)

    def _note(self, component: str, error: Exception | None) -> None:
        """Remember what a call of an engine failed with; a request that does not fit it is no failure of the engine."""
        if error is None:
            self._failures.pop(component, None)
        elif not isinstance(error, InputError):
            self._failures[component] = error

    def _facts(self, drawing: Drawing, index: int, flagged: list[bool] | None) -> dict[str, str]:
        return {
            **({"allow_unverified": "yes"} if self._engines.wanted.allow_unverified else {}),
            **request_facts(drawing.request, drawing.plan, drawing.texts, index),
            "safety_checker": verdict(flagged, index, self._bundle.manifest.safety_checker is not None),
            "bundle": self._bundle.hash,
            **self._engines.facts(drawing.plan, len(drawing.texts.positive), checked=flagged is not None),
            "latentrt": __version__,
        }


def check_drawn(drawing: Drawing) -> NDArray[np.float32]:
    """The latents of a request whose job is done: (n, 4, h, w).

    Raises:
        EngineError: the job is not done or was cancelled.
        NanPictureError: the latents hold NaN or infinity.
        Exception: what ended the job, if something did.
    """
    job = drawing.job
    if not job.done:
        raise EngineError("the request is still being drawn: call step() until its job is done")
    if job.error is not None:
        raise job.error
    if job.latents is None:
        raise EngineError("the request was cancelled: it has no picture")
    check_finite(job.latents, "denoising")
    return job.latents


def _attempt(action: Callable[[_T], _U], given: _T) -> _U | Exception:
    try:
        return action(given)
    except Exception as error:  # of one request: the others go on
        return error
