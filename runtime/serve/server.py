"""The server process: one uvicorn, one event loop, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from concurrent.futures import Future
from types import FrameType

import uvicorn

from latentrt.engines.errors import InputError

from .app import create_app
from .connection import KEEP_ALIVE_SECONDS, Connection
from .service import Service

BACKLOG = 2048  # connections that the kernel keeps while the event loop is busy
SENDING_SECONDS = 10  # for answers that are ready when the last picture is done

log = logging.getLogger("latentrt.serve")


class Server(uvicorn.Server):
    """On SIGTERM or Ctrl-C it listens on, refuses what is new, and ends when what was under way has ended.

    A second signal ends it at once.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(service),
                loop="asyncio",
                http=Connection,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=SENDING_SECONDS,
            )
        )
        self._service = service
        self.loop: asyncio.AbstractEventLoop | None = None  # while it runs
        self._ending: Future[None] | None = None
        service.on_failure = self.end

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain. It is called in the midst of whatever the main thread does."""
        if self._ending is not None or self.loop is None:
            super().handle_exit(sig, frame)
            self.force_exit = True
            return
        self._ending = asyncio.run_coroutine_threadsafe(self._drain(), self.loop)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; the engines open meanwhile."""
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def end(self) -> None:
        """End now."""
        self.should_exit = True

    async def _drain(self) -> None:
        log.info("stopping", extra={"under_way": self._service.under_way})
        await self._service.drain()
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any that is free.

    Raises:
        InputError: no such host, or the port is taken or not ours to use.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        number = error.errno or 0
        words = os.strerror(number) if number > 0 else error.strerror or str(error)  # below 0: of a name's resolution
        raise InputError(f"cannot listen on {host} port {port}: {words}") from error


def run(service: Service, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        LatentrtError: the engines did not open.
    """
    host, port = listener.getsockname()[:2]
    log.info("listening", extra={"url": f"http://{f'[{host}]' if ':' in host else host}:{port}"})
    Server(service).run(sockets=[listener])
    if service.failure is not None:
        raise service.failure
