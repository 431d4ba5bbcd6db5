"""A client that goes away in the middle: how many steps its picture is still in.

Seen from outside, by the rows of each step: a second request is drawn all the while, and as long as both are there a
step has four rows. Those that end after the client went away are counted, from figures read just before; so the number
is never too low, and has the step in it that was under way.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .load import GENERATIONS
from .served import Served, served

STEPS = 150  # of both requests: neither is done before its client goes
SOONEST, LATEST = 1, 12  # steps together until the client goes
UNTIL_GONE = 0.05  # seconds at most between the last look and the next, so that it goes at any moment of a step
AFTERWARDS = 3  # steps more, in which it must not be


def disconnect(bundle: Path, options: Sequence[str], body: Mapping[str, Any], repeats: int) -> dict[str, Any]:
    """So many clients, one after another; every second one reads a stream."""
    numbers, long = np.random.default_rng(30), {**body, "num_inference_steps": STEPS}
    with served(bundle, *options) as server:
        found = [_steps_after(server, {**long, "stream": bool(one % 2)}, long, numbers) for one in range(repeats)]
    return {
        "clients": repeats,
        "steps until its rows are free": {str(steps): count for steps, count in sorted(Counter(found).items())},
        "most": max(found),
        "samples": found,
    }


def _steps_after(
    server: Served, leaving: Mapping[str, Any], staying: Mapping[str, Any], numbers: np.random.Generator
) -> int:
    cancelled, before = _cancelled(server), _steps_together(server)
    wanted = before + int(numbers.integers(SOONEST, LATEST + 1))
    with _asking(server, staying):
        with _asking(server, leaving):
            _until(lambda: _steps_together(server) >= wanted)
            time.sleep(numbers.uniform(0, UNTIL_GONE))
            at_the_end = _steps_together(server)
        _until(lambda: _cancelled(server) > cancelled)
        steps = server.metric("latentrt_step_rows_count")
        _until(lambda: server.metric("latentrt_step_rows_count") >= steps + AFTERWARDS)
        after = _steps_together(server)
    _until(lambda: server.metric("latentrt_live_requests") == 0)
    return round(after - at_the_end)


def _asking(server: Served, body: Mapping[str, Any]) -> socket.socket:
    """A connection on which a picture was asked for; closing it is going away."""
    content = json.dumps(dict(body)).encode()
    connection = socket.create_connection(server.address)
    head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    connection.sendall(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def _steps_together(server: Served) -> float:
    """Steps so far of more than one guided picture's rows, and no more than two's."""
    buckets = {one.labels["le"]: one.value for one in server.samples() if one.name == "latentrt_step_rows_bucket"}
    return buckets["4.0"] - buckets["2.0"]


def _cancelled(server: Served) -> float:
    return server.metric("latentrt_request_seconds_count", outcome="cancelled")


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        if time.monotonic() > end:
            raise SystemExit("a server that was waited for did nothing")
        time.sleep(0.002)
