"""A service in a process whose main thread is not its own: the event loop that it belongs to, in a thread beside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from ..service import Service

ASK_SECONDS = 0.02  # between two looks at whether the engines are open


class Host:
    """Owns a service and its event loop. Its methods are called from one other thread."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="latentrt-serve", daemon=True)
        self._answers: set[asyncio.Task[None]] = set()
        self._repeated: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Return when requests are taken in: the engines are open, and gave finite numbers.

        Raises:
            LatentrtError: they do not open.
        """
        self._thread.start()
        try:
            self._run(self._opened())
        except BaseException:
            self.close()
            raise

    def begin(self, answer: Coroutine[Any, Any, None]) -> None:
        """Run what answers a request, in the event loop; returns at once."""
        self._loop.call_soon_threadsafe(self._begin, answer)

    def repeat(self, action: Callable[[], None], seconds: float) -> None:
        """Call `action` in a thread of the service's, so many seconds after it last returned, until `close`."""
        self._loop.call_soon_threadsafe(self._repeat, action, seconds)

    def close(self) -> None:
        """Finish what is under way, at most for the service's grace time, and close the engines."""
        self._run(self._closed())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, action: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(action, self._loop).result()

    def _begin(self, answer: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(answer)
        self._answers.add(task)  # the loop itself holds its tasks weakly
        task.add_done_callback(self._answers.discard)

    def _repeat(self, action: Callable[[], None], seconds: float) -> None:
        self._repeated.append(self._loop.create_task(self._again(action, seconds)))

    async def _again(self, action: Callable[[], None], seconds: float) -> None:
        while True:
            await self.service.pool.run(action)
            await asyncio.sleep(seconds)

    async def _opened(self) -> None:
        self.service.start()
        while not self.service.ready:
            if self.service.failure is not None:
                raise self.service.failure
            await asyncio.sleep(ASK_SECONDS)

    async def _closed(self) -> None:
        await self.service.drain()
        await asyncio.gather(*self._answers, return_exceptions=True)  # one that could not be sent keeps no other
        for task in self._repeated:
            task.cancel()
        await asyncio.gather(*self._repeated, return_exceptions=True)
        await self.service.close()
