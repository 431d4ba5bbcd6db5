"""One client's connection: it may neither send the head of a request, nor read an answer, as slowly as it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # for a request's line and headers, from the connection's beginning or the first byte
KEEP_ALIVE_SECONDS = 5  # that a connection may be idle after an answer
READ_SECONDS = 30.0  # for a client that reads none of its answer


class Connection(H11Protocol):
    """uvicorn's own, with the two limits that it lacks; `middleware.BoundedBody` keeps that of a body."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head = Timer(self.loop, HEAD_SECONDS, self.timeout_keep_alive_handler)
        self._reader = Timer(self.loop, READ_SECONDS, self._look_at_reader)
        self._unread = 0  # bytes, at the last look

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Wait for a first request."""
        super().connection_made(transport)
        self._head.start()

    def data_received(self, data: bytes) -> None:
        """Read on; a byte now and then does not make the time for a head any longer."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:  # a head, or the rest of a body, is not whole yet
            self._head.start()
        else:
            self._head.stop()
            self._reader.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._head.stop()
        self._reader.stop()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """The client read on."""
        self._reader.stop()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Wait for the client to read what is left; the connection may be closing, which takes as long."""
        super().on_response_complete()
        self._await_reader()

    def _await_reader(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._reader.start()

    def _look_at_reader(self) -> None:
        """Cut the connection where nothing was read since the last look; else look again while something is left."""
        if 0 < self._unread <= self.transport.get_write_buffer_size():
            self.transport.abort()
        elif self.transport.get_write_buffer_size():
            self._await_reader()


class Timer:
    """Does something after so many seconds, once it is started and unless it is stopped."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, action: Callable[[], None]) -> None:
        self._loop, self._seconds, self._action = loop, seconds, action
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Count from now, unless it does so already."""
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._due)

    def stop(self) -> None:
        """Do nothing."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _due(self) -> None:
        self._handle = None
        self._action()
