"""Clients as they come: good ones, and some that vanish, are late, read slowly, or send what is none.

Each asks once and says in a word how that ended.
"""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx2
import numpy as np

from .load import GENERATIONS
from .served import Served

LOST = "lost"  # no answer, or not all of it
CLOSED = "closed"  # by the server, without a word
SECONDS = 20.0  # of the server's for a request; what asks for more steps than that is late
_PATIENCE = 60.0  # seconds of these clients'; longer than any limit of the server's
_PNG = b"\x89PNG\r\n\x1a\n"
_NO_HTTP = (
    b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    b"GET\r\n\r\n",
    b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
)
_NO_JSON = (b"", b"{", b"[1]", b"\xff\xfe\x00", b'{"prompt": ["a"]}', b'{"prompt": "a", "seed": 1e999}', b"[" * 10_000)

Client: TypeAlias = Callable[[Served, Mapping[str, Any], np.random.Generator], str]


@dataclass(frozen=True)
class Kind:
    """A kind of client, how many there are, and how asking may end for it."""

    ask: Client
    expected: frozenset[str]
    clients: int = 1


def good(server: Served, body: Mapping[str, Any], numbers: np.random.Generator) -> str:
    """A picture of 1 to 19 steps, looked at."""
    wanted = {"num_inference_steps": int(numbers.integers(1, 20)), "seed": int(numbers.integers(2**31))}
    answer = _post(server, {**body, **wanted})
    if answer is None or answer.status_code != 200:
        return LOST if answer is None else str(answer.status_code)
    [picture] = answer.json()["data"]
    is_whole = base64.b64decode(picture["b64_json"]).startswith(_PNG) and picture["seed"] == wanted["seed"]
    return "200" if is_whole else "another picture"


def late(server: Served, body: Mapping[str, Any], _: np.random.Generator) -> str:
    """More steps than there is time for, where others are drawn too."""
    answer = _post(server, {**body, "num_inference_steps": 150})
    return LOST if answer is None else str(answer.status_code)


def vanishing(server: Served, body: Mapping[str, Any], numbers: np.random.Generator) -> str:
    """Goes away in the middle; from a stream every second time."""
    wanted = {"num_inference_steps": 50, "stream": bool(numbers.integers(2))}
    with socket.create_connection(server.address) as connection:
        connection.sendall(_head({**body, **wanted}))
        time.sleep(numbers.uniform(0, 0.5))
    return "gone"


def slow(server: Served, body: Mapping[str, Any], _: np.random.Generator) -> str:
    """Reads a picture and its previews as a stream, a little at a time."""
    wanted = {"num_inference_steps": 10, "stream": True, "partial_images": 3}
    read = b""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(_PATIENCE)
        connection.connect(server.address)
        connection.sendall(_head({**body, **wanted}))
        while b"event: image_generation.completed" not in read or not read.endswith(b"\r\n0\r\n\r\n"):
            more = connection.recv(2048)
            if not more:
                return LOST if read.startswith(b"HTTP/1.1 200") or not read else read[9:12].decode()
            read += more
            time.sleep(0.02)
    return "200"


def no_http(server: Served, _: Mapping[str, Any], numbers: np.random.Generator) -> str:
    """Something else than HTTP."""
    return _said(server, _NO_HTTP[numbers.integers(len(_NO_HTTP))])


def no_json(server: Served, _: Mapping[str, Any], numbers: np.random.Generator) -> str:
    """HTTP, and in it something else than JSON, or than a request."""
    content = _NO_JSON[numbers.integers(len(_NO_JSON))]
    time.sleep(0.1)
    with server.client() as client:
        return _status(lambda: client.post(GENERATIONS, content=content, headers={"Content-Type": "application/json"}))


def silent(server: Served, _: Mapping[str, Any], numbers: np.random.Generator) -> str:
    """Half a head, or nothing, until the server has enough of it."""
    return _said(server, b"GET / HTTP/1.1\r\nX:" if numbers.integers(2) else b"", ends=False)


KINDS = {
    "good": Kind(good, frozenset({"200"}), clients=3),
    "late": Kind(late, frozenset({"504", "200"})),
    "vanishing": Kind(vanishing, frozenset({"gone"})),
    "slow": Kind(slow, frozenset({"200"})),
    "no HTTP": Kind(no_http, frozenset({"400", CLOSED})),
    "no JSON": Kind(no_json, frozenset({"400"})),
    "silent": Kind(silent, frozenset({CLOSED})),
}


def _post(server: Served, body: Mapping[str, Any]) -> httpx2.Response | None:
    with server.client() as client:
        try:
            return client.post(GENERATIONS, json=dict(body))
        except httpx2.TransportError:
            return None


def _status(ask: Callable[[], httpx2.Response]) -> str:
    try:
        return str(ask().status_code)
    except httpx2.TransportError:
        return LOST


def _said(server: Served, sent: bytes, *, ends: bool = True) -> str:
    time.sleep(0.1)
    with socket.create_connection(server.address, timeout=_PATIENCE) as connection:
        connection.sendall(sent)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        try:
            answer = connection.recv(65536)
        except ConnectionResetError:
            return CLOSED
        except TimeoutError:
            return LOST
    return answer[9:12].decode("ascii", "replace") if answer else CLOSED


def _head(body: Mapping[str, Any]) -> bytes:
    content = json.dumps(dict(body)).encode()
    head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content
