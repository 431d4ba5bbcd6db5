"""Whether the engines draw, for a keeper that asks every few seconds, as Ray does."""

from __future__ import annotations

import asyncio

from latentrt.engines.errors import EngineError

from ..pipeline import Pipeline
from .probe import probe
from .supervision import Supervisor

SHARE = 0.1  # of the engines' time that checks may take while nothing else is drawn


class HealthCheck:
    """Knows by what the engines did since it was last asked, or else by one step of their own.

    Checks of engines that nobody uses take at most `SHARE` of the time: the others among them believe the last.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._turns = self._turns_known = 0  # of all pipelines' threads; those that a check knows of
        self._next_probe = 0.0  # on the event loop's clock
        self._checking: asyncio.Task[None] | None = None

    def turned(self) -> None:
        """Hear of a piece of the engines' work that succeeded or failed; in their thread."""
        self._turns += 1

    async def check(self) -> None:
        """Return when they are known to draw.

        Raises:
            EngineError: there are none, or they failed; they are being opened again.
        """
        pipeline = self._supervisor.pipeline
        if pipeline is None:
            raise EngineError("the engines are not open")
        if pipeline.failed is None and self._turns != self._turns_known:
            self._turns_known = self._turns
            return
        if pipeline.failed is None and asyncio.get_running_loop().time() < self._next_probe:
            return
        if self._checking is None or self._checking.done():  # one at a time, however long it takes
            self._checking = asyncio.create_task(self._probe(pipeline))
        await asyncio.shield(self._checking)

    async def _probe(self, pipeline: Pipeline) -> None:
        clock = asyncio.get_running_loop()
        began = clock.time()
        try:
            await probe(pipeline)
        except Exception:
            self._supervisor.suspect()
            raise
        now = clock.time()
        self._next_probe, self._turns_known = now + (now - began) / SHARE, self._turns
