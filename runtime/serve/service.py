"""The one object that routes talk to: it takes requests in, or says why not, and owns the pipeline that draws them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import EngineError

from ..pipeline import Pipeline
from ..preview import preview
from ..turn import Turn
from .api_keys import KEY
from .errors import BusyError, DrainingError, EngineStalledError, NotReadyError, RefusedError
from .health_check import HealthCheck
from .limits import check_orders
from .metrics import Metrics
from .picture_files import EncodingPool
from .request_ids import REQUEST_ID, request_id
from .settings import ServeSettings
from .supervision import Supervisor
from .ticket import Surroundings, Ticket

NOT_READY_SECONDS = 2  # when to ask again while engines open
LONGEST_RETRY = 60  # seconds
FIRST_GUESS = 2.0  # seconds of a picture, before any was drawn
WEIGHT = 0.2  # of the latest picture in the moving average
CLOSING_SECONDS = 10  # for a call of an engine that is under way when the engines are to be closed

State = Literal["starting", "ready", "not ready", "draining", "failed"]

log = logging.getLogger("latentrt.serve")


class Service:
    """Pictures of one bundle for many clients. Its methods belong to the event loop's thread.

    `open_pipeline` runs in a thread of its own, at the start and again after the engines died.

    Attributes:
        tickets: what is under way, by id.
        failure: why the engines did not open the first time, or that they hang; nothing is served from then on.
    """

    def __init__(self, bundle: Bundle, settings: ServeSettings, open_pipeline: Callable[[], Pipeline]) -> None:
        self.settings, self.manifest = settings, bundle.manifest
        self.model_name = settings.model_name or bundle.root.resolve().name
        self.metrics = Metrics()
        self.metrics.waiting.set_function(lambda: self.waiting)  # asked for whenever the figures are
        self.metrics.live.set_function(lambda: self.begun)
        self.metrics.requests.set_function(lambda: len(self.tickets))
        self.metrics.busy.set_function(lambda: self.busy_seconds)
        self.tickets: dict[str, Ticket] = {}
        self.draining = False
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self._supervisor = Supervisor(open_pipeline, self._turned, settings.stall_seconds)
        self._health = HealthCheck(self._supervisor)
        self._supervisor.on_change = self._changed
        self.pool = EncodingPool()
        self._keeping: list[asyncio.Task[None]] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._seconds = FIRST_GUESS  # of a picture, moving average

    @property
    def ready(self) -> bool:
        """Whether requests are taken in: the engines passed a probe, and the server is not stopping."""
        return self._supervisor.pipeline is not None and not self.draining

    @property
    def state(self) -> State:
        """The same in words."""
        if self.failure is not None:
            return "failed"
        if self.draining:
            return "draining"
        if self.ready:
            return "ready"
        return "not ready" if self._supervisor.first.is_set() else "starting"

    @property
    def under_way(self) -> int:
        """Pictures that wait or are being drawn."""
        return sum(ticket.under_way for ticket in self.tickets.values())

    @property
    def begun(self) -> int:
        """Those of them that have a step behind them."""
        return sum(ticket.begun for ticket in self.tickets.values())

    @property
    def waiting(self) -> int:
        """Those of them that have none."""
        return self.under_way - self.begun

    @property
    def busy_seconds(self) -> float:
        """How long the engines' work under way has taken so far; 0 where there is none."""
        since = self._supervisor.busy_since
        return 0.0 if since is None else time.monotonic() - since

    def start(self) -> None:
        """Begin to open the engines; returns at once."""
        self._keeping = [self._kept(self._supervisor.run()), self._kept(self._supervisor.watch())]

    async def check(self) -> None:
        """Return when the engines are known to draw; while they open for the first time, wait for that.

        What is under way is proof. Where nothing is, one step is drawn: it joins the others as any request does.

        Raises:
            LatentrtError: why they do not.
        """
        if not self._supervisor.first.is_set():
            opened = asyncio.create_task(self._supervisor.first.wait())
            await asyncio.wait((*self._keeping, opened), return_when=asyncio.FIRST_COMPLETED)
            opened.cancel()
        if self.failure is not None:
            raise self.failure
        await self._health.check()

    def submit(self, orders: Sequence[dict[str, Any]], *, previews: bool = False) -> Ticket:
        """Take a request in. Each order has the fields of a `Request`, and is one picture.

        A refusal takes no time: it asks neither the engines nor a thread.

        Raises:
            InputError: a field is out of range, or beyond what this server takes.
            BusyError: too many pictures wait.
            DrainingError, NotReadyError: nothing is taken in now.
        """
        try:
            pipeline = self._admit(len(orders))
        except RefusedError as refusal:
            self.metrics.rejected.labels(_reason(refusal)).inc()
            raise
        check_orders(orders, self.settings, self.manifest)
        shown = self.preview if previews and self.settings.previews else None
        around = Surroundings(self.pool, shown, self._ended)
        ticket = Ticket(self._free_id(), KEY.get(), self.settings.request_timeout, around)
        self.tickets[ticket.id] = ticket
        self._idle.clear()
        try:
            for index, order in enumerate(orders):
                ticket.add(pipeline.submit(on_step=ticket.listener(index), **order))
        except EngineError as error:  # its thread ended a moment ago
            ticket.cancel()
            self._supervisor.suspect()
            raise NotReadyError("the engines are being opened again", NOT_READY_SECONDS) from error
        except Exception:
            ticket.discard()
            raise
        return ticket

    def preview(self, denoised: NDArray[np.float32]) -> Image | None:
        """What a latent (4, h, w) float32 will look like, where the bundle knows; asked in a thread of the pool."""
        fitted, scale = self.manifest.preview, self.manifest.model.vae_scale_factor
        height, width = denoised.shape[1:]
        return None if fitted is None else preview(denoised, fitted, (width * scale, height * scale))

    async def drain(self) -> None:
        """Take nothing more in; return when all under way has ended, or call it off when the grace time is over."""
        self.draining = True
        self.metrics.ready.set(0)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self.settings.grace_seconds)
        self._lose("the server stopped before the picture was done: ask another")

    async def close(self) -> None:
        """Close the engines; what is under way is lost, and a call that does not return in time left behind."""
        self.draining = True
        self._lose("the server stopped before the picture was done: ask another")
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await self._close_engines()
        except TimeoutError:
            log.warning("the engines are still at work", extra={"seconds": round(self.busy_seconds, 1)})
        self.pool.close()

    async def _close_engines(self) -> None:
        for task in self._keeping:
            task.cancel()
        if self._keeping:
            await asyncio.wait(self._keeping)
        await self._supervisor.close()

    def _admit(self, count: int) -> Pipeline:
        if self.draining:
            raise DrainingError("the server is stopping and takes nothing more: ask another", NOT_READY_SECONDS)
        pipeline = self._supervisor.pipeline
        if pipeline is None:
            raise NotReadyError("the engines are being opened: try again in a moment", NOT_READY_SECONDS)
        key, most = KEY.get(), self.settings.max_per_key
        if key is not None and most is not None:
            own = sum(ticket.under_way for ticket in self.tickets.values() if ticket.key == key)
            if own and own + count > most:
                raise BusyError(
                    f"this key has {own} pictures under way, of at most {most}", self._retry_after(), own_share=True
                )
        under_way = self.under_way
        if under_way and under_way + count > self.settings.capacity:
            raise BusyError(
                f"{under_way} pictures are under way or wait, of at most {self.settings.capacity}", self._retry_after()
            )
        return pipeline

    def _retry_after(self) -> int:
        """Seconds until there may be room, from how long pictures took of late."""
        rounds = math.ceil((self.under_way - self.settings.max_queue) / self.settings.slots)
        return min(LONGEST_RETRY, max(1, math.ceil(self._seconds * max(1, rounds))))

    def _free_id(self) -> str:
        name = REQUEST_ID.get() or request_id(None)
        return name if name not in self.tickets else request_id(None)

    def _ended(self, ticket: Ticket) -> None:
        self.tickets.pop(ticket.id, None)
        if not self.tickets:
            self._idle.set()
        if ticket.outcome == "invalid":
            self.metrics.rejected.labels("invalid").inc()
            return
        seconds = asyncio.get_running_loop().time() - ticket.began
        assert ticket.outcome is not None
        self.metrics.seconds.labels(ticket.outcome).observe(seconds)
        if ticket.outcome == "done":
            self._seconds += WEIGHT * (seconds - self._seconds)
            results = ticket.results
            self.metrics.pictures.inc(len(results))
            self.metrics.flagged.inc(sum(bool(result.flagged and result.flagged[0]) for result in results))
        elif ticket.outcome in {"nan", "engine", "error"}:
            self.metrics.nan.inc(ticket.outcome == "nan")
            if not self.draining:
                self._supervisor.suspect()

    def _lose(self, why: str) -> None:
        for ticket in list(self.tickets.values()):
            ticket.lose(why)

    def _turned(self, turn: Turn) -> None:
        """In the thread that owns the engines."""
        self._health.turned()
        self.metrics.turned(turn)

    def _changed(self) -> None:
        self.metrics.ready.set(self.ready)
        self.metrics.opened.inc(self._supervisor.pipeline is not None)

    def _kept(self, keeping: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(keeping)
        task.add_done_callback(self._keeping_ended)
        return task

    def _keeping_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        self.failure = error
        if isinstance(error, EngineStalledError):
            self.metrics.stalled.inc()
            log.error("the engines hang", extra={"error": str(error), "under_way": self.under_way})
        self._lose(str(error))
        self.on_failure()


def _reason(refusal: RefusedError) -> str:
    if isinstance(refusal, BusyError):
        return "share" if refusal.own_share else "queue"
    return "draining" if isinstance(refusal, DrainingError) else "not ready"
