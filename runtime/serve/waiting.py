"""Waiting for pictures as long as somebody waits for them: a client that goes away frees its rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .picture_files import QUALITY, OutputFormat, Picture
from .ticket import Ticket


async def drawn(
    request: Request, ticket: Ticket, output_format: OutputFormat = "png", quality: int = QUALITY
) -> list[Picture]:
    """The ticket's pictures; raises as `Ticket.pictures` does, and `CalledOffError` where the client went away."""
    async with watched(request, ticket):
        return await ticket.pictures(output_format, quality)


@asynccontextmanager
async def watched(request: Request, ticket: Ticket) -> AsyncIterator[None]:
    """Call the ticket off when its client goes away, and when the block ends before it does."""
    watch = asyncio.create_task(_cancel_when_gone(request, ticket))
    try:
        yield
    finally:
        watch.cancel()
        ticket.cancel()


class EventStream(StreamingResponse):
    """Server-sent events of a ticket. However the answer ends, be it before the first event, the ticket does too."""

    def __init__(self, ticket: Ticket, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what comes."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ticket.cancel()


async def _cancel_when_gone(request: Request, ticket: Ticket) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass  # what is left of a body that was read already
    ticket.cancel()
