"""A client that goes away in the middle: how many steps its picture is still in.

Seen from outside, by the rows of each step: a second request is drawn all the while, and as long as both are there a
step has four rows. Those that end after the client went away are counted; the step that was under way is one of them.
The figures are read just before the connection is closed, and again just after: if a step ends in between, both numbers
are told.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from .load import GENERATIONS
from .served import Served, samples, served

STEPS = 150  # of both requests: neither is done before its client goes
SOONEST, LATEST = 1, 12  # steps together until the client goes
UNTIL_GONE = 0.05  # seconds at most between the last look and the next, so that it goes at any moment of a step
AFTERWARDS = 3  # steps more, in which it must not be


def disconnect(bundle: Path, options: Sequence[str], body: Mapping[str, Any], repeats: int) -> dict[str, Any]:
    """So many clients, one after another; every second one reads a stream."""
    numbers, long = np.random.default_rng(30), {**body, "num_inference_steps": STEPS}
    with served(bundle, *options) as server, server.client() as watching:
        found = [
            _steps_after(server, watching, {**long, "stream": bool(one % 2)}, long, numbers) for one in range(repeats)
        ]
    words = [str(least) if least == most else f"{least} or {most}" for least, most in found]
    return {
        "clients": repeats,
        "steps until its rows are free": dict(sorted(Counter(words).items())),
        "most": max(most for _, most in found),
        "samples": found,
    }


def _steps_after(
    server: Served,
    watching: httpx2.Client,
    leaving: Mapping[str, Any],
    staying: Mapping[str, Any],
    numbers: np.random.Generator,
) -> tuple[int, int]:
    """At least and at most so many steps with its rows ended after the client had gone."""

    def look() -> str:
        return watching.get("/metrics").text  # on a connection that is open already: the moment matters

    cancelled = _figure(look(), "latentrt_request_seconds_count", outcome="cancelled")
    wanted = _steps_together(look()) + int(numbers.integers(SOONEST, LATEST + 1))
    with _asking(server, staying):
        with _asking(server, leaving):
            _until(lambda: _steps_together(look()) >= wanted)
            time.sleep(numbers.uniform(0, UNTIL_GONE))
            before = look()
        after = look()
        _until(lambda: _figure(look(), "latentrt_request_seconds_count", outcome="cancelled") > cancelled)
        steps = _figure(look(), "latentrt_step_rows_count")
        _until(lambda: _figure(look(), "latentrt_step_rows_count") >= steps + AFTERWARDS)
        end = _steps_together(look())
    _until(lambda: _figure(look(), "latentrt_live_requests") == 0)
    return round(end - _steps_together(after)), round(end - _steps_together(before))


def _asking(server: Served, body: Mapping[str, Any]) -> socket.socket:
    """A connection on which a picture was asked for; closing it is going away."""
    content = json.dumps(dict(body)).encode()
    connection = socket.create_connection(server.address)
    head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    connection.sendall(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def _steps_together(metrics: str) -> float:
    """Steps so far of more than one guided picture's rows, and no more than two's."""
    at_most = (_figure(metrics, "latentrt_step_rows_bucket", le=rows) for rows in ("4.0", "2.0"))
    return next(at_most) - next(at_most)


def _figure(metrics: str, name: str, **labels: str) -> float:
    return sum(one.value for one in samples(metrics) if one.name == name and labels.items() <= one.labels.items())


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        if time.monotonic() > end:
            raise SystemExit("a server that was waited for did nothing")
        time.sleep(0.002)
