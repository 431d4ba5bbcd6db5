"""Who keeps a pipeline open: it opens one, probes it, and opens it again when it dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from latentrt.engines.errors import EngineError

from ..pipeline import Pipeline
from ..turn import Turn

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two tries to open; each is twice the one before
SHARE = 0.1  # of the engines' time that checks may take while nothing else is drawn
PROBE = {"prompt": "", "num_inference_steps": 1}  # guided, at the model's own size: what most requests are like

log = logging.getLogger("latentrt.serve")


class Supervisor:
    """Keeps one pipeline that passed its probe, or none.

    Attributes:
        pipeline: the one to draw with; None while there is none.
        first: set once there was one.
        on_change: hears, in the event loop, when that changed.

    `on_turn` hears of every piece of the pipelines' work, in their threads.
    """

    def __init__(self, open_pipeline: Callable[[], Pipeline], on_turn: Callable[[Turn], None]) -> None:
        self.pipeline: Pipeline | None = None
        self.first = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        self._open_pipeline, self._on_turn = open_pipeline, on_turn
        self._suspicion = asyncio.Event()
        self._turns = self._turns_known = 0  # of all pipelines' threads; those that a check knows of
        self._next_probe = 0.0  # on the event loop's clock
        self._checking: asyncio.Task[None] | None = None

    def suspect(self) -> None:
        """Have the pipeline probed: a request of it failed."""
        self._suspicion.set()

    async def check(self) -> None:
        """Know that the engines draw: by what they did since the last check, or else by one step of their own.

        Checks of engines that nobody uses take at most `SHARE` of the time: the others among them believe the last.

        Raises:
            EngineError: there are none, or they failed; they are being opened again.
        """
        pipeline = self.pipeline
        if pipeline is None:
            raise EngineError("the engines are not open")
        if pipeline.failed is None and self._turns != self._turns_known:
            self._turns_known = self._turns
            return
        if pipeline.failed is None and asyncio.get_running_loop().time() < self._next_probe:
            return
        if self._checking is None or self._checking.done():  # one at a time, however long it takes
            self._checking = asyncio.create_task(self._check(pipeline))
        await asyncio.shield(self._checking)

    async def _check(self, pipeline: Pipeline) -> None:
        clock = asyncio.get_running_loop()
        began = clock.time()
        try:
            await _probe(pipeline)
        except Exception:
            self.suspect()
            raise
        now = clock.time()
        self._next_probe, self._turns_known = now + (now - began) / SHARE, self._turns

    async def run(self) -> None:
        """Open, and keep open until cancelled.

        Raises:
            LatentrtError: what cannot be opened the first time will not be the second time.
        """
        await self._open()
        while True:
            await self._suspicion.wait()
            self._suspicion.clear()
            pipeline = self.pipeline
            assert pipeline is not None
            try:
                await _probe(pipeline)
            except Exception as error:
                log.error("the engines failed their probe", extra={"error": str(error)})
                await self.close()
                await self._open_again()

    async def close(self) -> None:
        """Close the pipeline; what is still being drawn is cancelled."""
        pipeline, self.pipeline = self.pipeline, None
        self.on_change()
        if pipeline is not None:
            await asyncio.to_thread(pipeline.close, finish=False)

    async def _open(self) -> None:
        pipeline = await asyncio.to_thread(self._open_pipeline)
        pipeline.on_turn = self._turned
        try:
            await _probe(pipeline)
        except BaseException:
            await asyncio.to_thread(pipeline.close, finish=False)
            raise
        self.pipeline = pipeline
        self.first.set()
        self._suspicion.clear()
        self.on_change()
        log.info("ready", extra={"bundle": pipeline.bundle.hash, "engine": pipeline.wanted.engine})

    def _turned(self, turn: Turn) -> None:
        self._turns += 1
        self._on_turn(turn)

    async def _open_again(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._open()
            except Exception as error:
                log.error("the engines do not open", extra={"error": str(error), "retry_seconds": pause})
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


async def _probe(pipeline: Pipeline) -> None:
    """Draw one step.

    Raises:
        EngineError: it failed, or gave NaN or infinity.
    """
    try:
        await asyncio.wrap_future(pipeline.submit(**PROBE))  # type: ignore[arg-type] # `plan` checks the options
    except asyncio.CancelledError as cancelled:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise EngineError("the probe was cancelled: the pipeline is closed") from cancelled
