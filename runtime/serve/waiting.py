"""Waiting for pictures as long as somebody waits for them: a client that goes away frees its rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

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


async def _cancel_when_gone(request: Request, ticket: Ticket) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass  # what is left of a body that was read already
    ticket.cancel()
