"""Connections that only cost: nothing sent, a head without end, idle after an answer, an answer that is not read."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from latentrt.runtime.serve import connection
from support.serving import GENERATIONS, PATIENCE, Running, Unet, serving, until

LIMIT = 0.6  # seconds, of each kind, in place of the many that a server has


@pytest.fixture
def hasty(demo_bundle: Path, unet: Unet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A server that waits for nobody."""
    for name in ("HEAD_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(connection, name, LIMIT)
    with serving(demo_bundle, unet.opening(demo_bundle)) as running:
        yield running


def connect(running: Running, sent: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", running.port), timeout=20)
    made.sendall(sent)
    return made


def open_connections(running: Running) -> int:
    return len(running.server.server_state.connections)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nX-Slow:"])
def test_five_hundred_idle_connections_leave_room_and_are_closed_in_time(hasty: Running, sent: bytes) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(hasty, sent)) for _ in range(500)]
        assert hasty.draw().status_code == 200
        assert all(one.recv(1) == b"" for one in idle)
    until(lambda: open_connections(hasty) <= 1, "the end of the idle connections")  # one is the client's own


def is_cut(running: Running, sent: bytes) -> bool:
    """Whether the server closes a connection that goes on with a byte now and then."""
    with connect(running, sent) as slow:
        for _ in range(PATIENCE * 20):
            try:
                slow.sendall(b"a")
            except OSError:
                return True
            time.sleep(0.05)
    return False


def test_a_byte_now_and_then_buys_no_time(hasty: Running) -> None:
    assert is_cut(hasty, b"GET /healthz HTTP/1.1\r\nX-Slow: ")


def test_after_an_answer_a_head_has_the_same_time(hasty: Running) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(hasty, whole) as kept:
        answer = kept.recv(65536)
        kept.sendall(whole[:20])
        while more := kept.recv(65536):  # until it is closed
            answer += more
    assert answer.count(b"HTTP/1.1 ") == answer.count(b"HTTP/1.1 200") == 1


def test_a_body_that_drips_after_its_answer_was_sent_is_not_listened_to_for_ever(hasty: Running) -> None:
    head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n".encode()
    assert is_cut(hasty, head)


def test_a_request_that_takes_its_time_is_not_cut(hasty: Running, unet: Unet) -> None:
    unet.pause = LIMIT
    assert hasty.draw(num_inference_steps=3).status_code == 200


def test_a_client_that_reads_nothing_is_cut(hasty: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hasty.service.metrics, "text", lambda: b"#" * 50_000_000)  # more than the kernel holds
    with connect(hasty, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):
        until(lambda: open_connections(hasty) >= 1, "the connection")
        until(lambda: open_connections(hasty) == 0, "the end of the connection")


def test_a_client_that_reads_slowly_has_all_of_its_answer(hasty: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hasty.service.metrics, "text", lambda: b"#" * 20_000_000)
    read = 0
    with connect(hasty, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as slow:
        while more := slow.recv(1_000_000):
            read += len(more)
            time.sleep(LIMIT / 10)
    assert read > 20_000_000


def test_requests_on_one_connection_are_answered_one_after_another(hasty: Running) -> None:
    body = json.dumps({"prompt": "a star", "num_inference_steps": 1}).encode()
    head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
    whole = head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    with connect(hasty, whole + whole) as both:
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 2:
            more = both.recv(65536)
            assert more
            answers += more
