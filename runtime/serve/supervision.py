"""Who keeps a pipeline open: it opens one, probes it, opens it again when it dies, and tells when it hangs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from ..live import settle
from ..pipeline import Pipeline
from ..turn import Turn
from .errors import EngineStalledError
from .probe import probe
from .stall import StallWatch

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two tries to open; each is twice the one before

_T = TypeVar("_T")

log = logging.getLogger("latentrt.serve")


class Supervisor:
    """Keeps one pipeline that passed its probe, or none.

    Attributes:
        pipeline: the one to draw with; None while there is none.
        first: set once there was one.
        on_change: hears, in the event loop, when that changed.

    `on_turn` hears of every piece of the pipelines' work, in their threads; one that takes longer than `stall_timeout`
    seconds is taken for one that never ends.
    """

    def __init__(
        self, open_pipeline: Callable[[], Pipeline], on_turn: Callable[[Turn], None], stall_timeout: float
    ) -> None:
        self.pipeline: Pipeline | None = None
        self.first = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        self._open_pipeline, self._on_turn, self._stall_timeout = open_pipeline, on_turn, stall_timeout
        self._watched: Pipeline | None = None  # from before its probe until it is closed
        self._suspicion = asyncio.Event()

    @property
    def busy_since(self) -> float | None:
        """When the engines began what they do now, on `time.monotonic`'s clock; None while they do nothing."""
        return None if self._watched is None else self._watched.busy_since

    def suspect(self) -> None:
        """Have the pipeline probed: a request of it failed."""
        self._suspicion.set()

    async def watch(self) -> None:
        """Look after the engines until cancelled, whatever `run` waits for: those whose thread died are probed.

        Raises:
            EngineStalledError: they hang. There is no pipeline then, and this one is never closed: it would wait.
        """
        watch = StallWatch(self._stall_timeout)
        failed: BaseException | None = None
        while True:
            await asyncio.sleep(watch.pause)
            if watch.stalled(self.busy_since):
                self.pipeline = self._watched = None
                self.on_change()
                raise EngineStalledError(
                    f"a call of an engine did not return within {self._stall_timeout:g} s: the process has to end; "
                    "give a longer --stall-timeout where calls do take so long"
                )
            before, failed = failed, None if self._watched is None else self._watched.failed
            if failed is not None and failed is not before:
                self.suspect()

    async def run(self) -> None:
        """Open, and keep open until cancelled.

        Raises:
            LatentrtError: what cannot be opened the first time will not be the second time.
        """
        await self._open()
        while True:
            await self._suspicion.wait()
            self._suspicion.clear()
            if (pipeline := self.pipeline) is None:
                return  # it hangs
            try:
                await probe(pipeline)
            except Exception as error:
                log.error("the engines failed their probe", extra={"error": str(error)})
                await self.close()
                await self._open_again()

    async def close(self) -> None:
        """Close the pipeline; what is still being drawn is cancelled."""
        self.pipeline = None
        self.on_change()
        if self._watched is not None:
            await _beside(partial(self._watched.close, finish=False))
            self._watched = None

    async def _open(self) -> None:
        pipeline = self._watched = await _beside(self._open_pipeline)
        pipeline.on_turn = self._on_turn
        try:
            await probe(pipeline)
        except BaseException:
            await self.close()
            raise
        self.pipeline = pipeline
        self.first.set()
        self._suspicion.clear()
        self.on_change()
        log.info("ready", extra={"bundle": pipeline.bundle.hash, "engine": pipeline.wanted.engine})

    async def _open_again(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._open()
            except Exception as error:
                log.error("the engines do not open", extra={"error": str(error), "retry_seconds": pause})
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


async def _beside(action: Callable[[], _T]) -> _T:
    """Do `action` in a thread that nobody waits for when the process ends: native code may hang in it."""
    outcome: Future[_T] = Future()
    outcome.set_running_or_notify_cancel()  # it cannot be called off
    threading.Thread(target=settle, args=(outcome, action), name="latentrt-opening", daemon=True).start()
    return await asyncio.wrap_future(outcome)
