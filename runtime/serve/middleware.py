"""What stands before every route: a request's id, its key, its body read within bounds; after it, a line in the log.

Plain ASGI: Starlette's own base class would run each route in another task, and hide a client that goes away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .api_keys import KEY, ApiKeys
from .problems import DEFECT, Problem, answer
from .request_ids import HEADER, REQUEST_ID, request_id
from .service import Service

UNAUTHORIZED = Problem(
    401,
    "invalid_api_key",
    "this server takes API keys: send one of its own as 'Authorization: Bearer KEY'",
    headers={"WWW-Authenticate": "Bearer"},
)

MISDIRECTED = Problem(
    421,
    "unknown_host",
    "this server goes by other names than the one asked for: start it with --allowed-host NAME for each",
)
DROPPED = 16  # times what a body may hold: more is not even read
WATCHERS = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})

log = logging.getLogger("latentrt.serve")


class Watched:
    """Names each request, answers for defects, counts and logs; says `Connection: close` while the server stops."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, under its name."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        name, began, status = request_id(dict(scope["headers"]).get(HEADER)), time.perf_counter(), 0
        REQUEST_ID.set(name)

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = name
                if self._service.draining:
                    headers["Connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception:
            log.exception("a defect")
            if status:  # too late for another answer: the connection is cut, so that nobody takes it for whole
                raise
            await answer(DEFECT, scope["path"])(scope, receive, send_named)
        finally:
            self._service.metrics.answers.labels(str(status)).inc()
            seconds = round(time.perf_counter() - began, 4)
            line = {"method": scope["method"], "path": scope["path"], "status": status, "seconds": seconds}
            log.log(_level(scope["path"]), "request", extra={**line, "key": KEY.get()})
        return None


class KnownHost:
    """Refuses requests for another name: a page elsewhere may have its own name point to this machine."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 421."""
        if scope["type"] == "http" and _host(Headers(scope=scope).get("host", "")) not in self._hosts:
            return await answer(MISDIRECTED, scope["path"])(scope, receive, send)
        return await self._app(scope, receive, send)


class Keyed:
    """Refuses a request without one of the keys, before anything of its body is read."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, public: Collection[str]) -> None:
        self._app, self._keys, self._public = app, keys, public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] == "http" and scope["path"] not in self._public:
            key = self._keys.name_of(Headers(scope=scope).get("authorization", "").encode("latin-1"))
            if key is None:
                return await answer(UNAUTHORIZED, scope["path"])(scope, receive, send)
            KEY.set(key)
        return await self._app(scope, receive, send)


class BoundedBody:
    """Reads a body whole, within `most` bytes and `seconds`, before anything parses it."""

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        self._app, self._most, self._seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body, or answer 408 or 413."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(Headers(scope=scope), receive)
        except TimeoutError:
            late = Problem(408, "slow_body", f"the body did not arrive within {self._seconds:g} s", headers=_CLOSE)
            return await answer(late, scope["path"])(scope, receive, send)
        if body is None:
            large = Problem(413, "body_too_large", f"a body has at most {self._most} bytes here", headers=_CLOSE)
            return await answer(large, scope["path"])(scope, receive, send)
        unread = [body]

        async def receive_again() -> Message:
            return unread.pop() if unread else await receive()

        return await self._app(scope, receive_again, send)

    async def _read(self, headers: Headers, receive: Receive) -> Message | None:
        """The body in one message, or the client's going away; None where it is too large.

        What is somewhat too large is read and dropped, since most clients read no answer before they have sent all.
        """
        length, most_read = headers.get("content-length", "0"), DROPPED * self._most
        if length.isdigit() and (len(length) > 18 or int(length) > most_read):
            return None
        body, size, more = bytearray(), 0, True
        while more and size <= most_read:
            message = await receive()
            if message["type"] != "http.request":
                return message if size <= self._most else None
            size += len(message.get("body", b""))
            if size <= self._most:
                body += message.get("body", b"")
            more = message.get("more_body", False)
        return {"type": "http.request", "body": bytes(body), "more_body": False} if size <= self._most else None


def _host(header: str) -> str:
    """The name in a `Host` header, without its port: "[::1]:8000" -> "[::1]"."""
    name, _, port = header.rpartition(":")
    return (name if name and port.isdigit() else header).lower()


def _level(path: str) -> int:
    """Whoever watches the server asks every few seconds: that is no news."""
    return logging.DEBUG if path in WATCHERS else logging.INFO


_CLOSE = {"Connection": "close"}  # what is left of the body is not read
