"""A request that the service took in: its progress, its pictures, its end. All of it belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from latentrt.engines.errors import EngineError, NanPictureError

from ..drawing import Result
from ..loop import Step
from ..submission import Submission
from .errors import CalledOffError, DeadlineError, EngineLostError, ServeError
from .picture_files import QUALITY, EncodingPool, OutputFormat, Picture, picture_of

Outcome: TypeAlias = Literal["done", "invalid", "cancelled", "deadline", "nan", "engine", "error"]
Preview: TypeAlias = Callable[[NDArray[np.float32]], Image | None]


@dataclass(frozen=True, eq=False)
class Progress:
    """`step` of `steps` are done of picture `index` (0, 1, ...); `preview` is what it will look like, if known."""

    index: int
    step: int
    steps: int
    preview: Image | None = None


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a ticket needs of its service: threads for files, previews or None, and who hears of its end."""

    pool: EncodingPool
    preview: Preview | None
    ended: Callable[[Ticket], None]


class Ticket:
    """One request's pictures, each drawn as a submission of its own; the first failure ends them all.

    Attributes:
        id: what the request is called in logs and headers.
        key: the name of the API key that it came with.
        began: when it was taken in, on the event loop's clock, in seconds.
        outcome: how it ended; None while it is under way.
    """

    def __init__(self, id: str, key: str | None, timeout: float, around: Surroundings) -> None:  # noqa: A002 - its name
        self.id, self.key = id, key
        self.outcome: Outcome | None = None
        self._loop = asyncio.get_running_loop()
        self.began = self._loop.time()
        self._around = around
        self._submissions: list[Submission] = []
        self._latest: dict[int, Step] = {}  # the worker's thread writes, the event loop reads
        self._changed, self._ended = asyncio.Event(), asyncio.Event()
        self._readers = 0
        self._error: Exception | None = None
        late = DeadlineError(f"the request was not done within {timeout:g} s: ask for fewer steps, or try later")
        self._timer = self._loop.call_at(self.began + timeout, self._end, "deadline", late)

    @property
    def done(self) -> bool:
        """Whether it ended: all pictures are drawn, or none will be."""
        return self.outcome is not None

    @property
    def under_way(self) -> int:
        """Pictures that are waiting or being drawn."""
        return 0 if self.done else sum(not one.done() for one in self._submissions)

    @property
    def begun(self) -> int:
        """Pictures under way that have a step behind them."""
        return 0 if self.done else sum(one.steps_done > 0 and not one.done() for one in self._submissions)

    @property
    def steps(self) -> tuple[int, int]:
        """Steps done, and of how many, over all pictures."""
        return sum(one.steps_done for one in self._submissions), sum(one.steps_total for one in self._submissions)

    def listener(self, index: int) -> Callable[[Step], None]:
        """What hears of the steps of picture `index`, in the worker's thread."""
        return partial(self._stepped, index)

    def add(self, submission: Submission) -> None:
        """Take in the submission of the next picture."""
        self._submissions.append(submission)
        submission.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._settle))

    def discard(self) -> None:
        """Drop it: one of its orders is no good."""
        self._end("invalid", None)

    def cancel(self) -> None:
        """Call it off: its rows are free before the next step. Without effect once it ended."""
        self._end("cancelled", CalledOffError("the request was called off"))

    def lose(self, why: str) -> None:
        """End it, as the engines or the server cannot go on. Without effect once it ended."""
        self._end("engine", EngineLostError(why))

    async def progress(self) -> AsyncIterator[Progress]:
        """Tell of finished steps until the ticket ends. Whoever reads slowly hears of the latest step alone."""
        told: dict[int, int] = {}
        self._readers += 1
        try:
            while True:
                self._changed.clear()
                ended = self.done
                for index, step in sorted(self._latest.items()):
                    if told.get(index) != step.index:
                        told[index] = step.index
                        yield Progress(index, step.index + 1, step.total, await self._preview(step))
                if ended:
                    return
                await self._changed.wait()
        finally:
            self._readers -= 1

    async def pictures(self, output_format: OutputFormat = "png", quality: int = QUALITY) -> list[Picture]:
        """Wait for all pictures, and make files of them.

        Raises:
            NanPictureError: what was drawn holds NaN or infinity.
            EngineError: an engine failed.
            ServeError: too late, called off, or the engines died.
        """
        await self._ended.wait()
        if self._error is not None:
            raise self._error
        finished = [(one.result(0), one.request.seed) for one in self._submissions]
        files = (partial(picture_of, result, seed, output_format, quality) for result, seed in finished)
        return list(await asyncio.gather(*map(self._around.pool.run, files)))

    @property
    def results(self) -> list[Result]:
        """What was drawn; empty unless `outcome` is "done"."""
        return [one.result(0) for one in self._submissions] if self.outcome == "done" else []

    def _stepped(self, index: int, step: Step) -> None:
        self._latest[index] = step
        if self._readers:
            self._loop.call_soon_threadsafe(self._changed.set)

    async def _preview(self, step: Step) -> Image | None:
        if (preview := self._around.preview) is None:
            return None
        return await self._around.pool.run(lambda: preview(step.denoised[0]))

    def _settle(self) -> None:
        """Look at what ended: a failure ends the ticket, and so does the last picture."""
        ended = [one for one in self._submissions if one.done()]
        for one in ended:
            if one.cancelled():
                self._end("engine", EngineLostError("the engines were closed while the picture was drawn: ask again"))
            elif (error := one.exception(0)) is not None:
                self._fail(error)
        if len(ended) == len(self._submissions):
            self._end("done", None)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, NanPictureError):
            self._end("nan", error)
        elif isinstance(error, EngineError | ServeError):
            self._end("engine", error)
        elif isinstance(error, Exception):
            self._end("error", error)
        else:
            self._end("engine", EngineLostError(f"the engines' thread ended by {type(error).__name__}: ask again"))

    def _end(self, outcome: Outcome, error: Exception | None) -> None:
        if self.done:
            return
        self.outcome, self._error = outcome, error
        self._timer.cancel()
        for one in self._submissions:
            one.cancel()
        self._ended.set()
        self._changed.set()
        self._around.ended(self)
