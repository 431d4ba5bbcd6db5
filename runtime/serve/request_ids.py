"""What a request is called in logs, answers and headers: the client's `X-Request-ID`, or a name of our own."""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar

HEADER = b"x-request-id"
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")  # of the request that is being answered

_PLAIN = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def request_id(given: bytes | None) -> str:
    """The client's own name, where it is plain and short enough to be logged; else a new one."""
    if given is not None and _PLAIN.fullmatch(given):
        return given.decode("ascii")
    return uuid.uuid4().hex
