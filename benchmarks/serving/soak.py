"""Minutes of clients as they come: good ones, and some that vanish, are late, or send what is none; and memory."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from .load import LOST, ask
from .served import Served, served

GOOD, WARM = 3, 60.0  # clients; seconds until memory is looked at
EVERY = 2.0  # seconds between two looks at the memory
GARBAGE = (
    b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{",
    b'POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{"',
)


def soak(bundle: Path, options: Sequence[str], body: Mapping[str, Any], minutes: float) -> dict[str, Any]:
    """Serve for so long; returns what was answered, and how the server's memory went."""
    answers: Counter[str] = Counter()
    sizes: list[tuple[float, int]] = []
    with served(bundle, "--request-timeout", "20", *options) as server:
        end = time.monotonic() + 60 * minutes
        threads = [
            threading.Thread(target=_repeat, args=(do, end))
            for do in (*(_good(server, body, answers, number) for number in range(GOOD)), _vanishing(server, body))
        ]
        threads.append(threading.Thread(target=_repeat, args=(_garbage(server), end)))
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            sizes.append((time.monotonic(), server.rss()))
            time.sleep(EVERY)
        for thread in threads:
            thread.join()
        left = server.metric("latentrt_live_pictures") + server.metric("latentrt_queue_length")
        failed = {name: server.metric("latentrt_http_answers_total", status=name) for name in ("500", "503", "504")}
    return {
        "minutes": minutes,
        "answers": dict(answers),
        "lost": answers[str(LOST)],
        "answered 5xx": failed,
        "left in the server": left,
        "memory": _slope(sizes),
    }


def _repeat(do: Callable[[], None], end: float) -> None:
    while time.monotonic() < end:
        do()


def _good(server: Served, body: Mapping[str, Any], answers: Counter[str], number: int) -> Callable[[], None]:
    """Steps, sizes and seeds of all kinds."""
    generator = np.random.default_rng(number)

    def do() -> None:
        wanted = {"num_inference_steps": int(generator.integers(1, 20)), "seed": int(generator.integers(2**31))}
        with server.client() as client:
            answers[str(ask(client, {**body, **wanted}).status)] += 1

    return do


def _vanishing(server: Served, body: Mapping[str, Any]) -> Callable[[], None]:
    """Goes away in the middle."""

    def do() -> None:
        with server.client() as client:
            client.timeout = 0.3
            ask(client, {**body, "num_inference_steps": 50})

    return do


def _garbage(server: Served) -> Callable[[], None]:
    place = urlsplit(server.url)
    numbers = np.random.default_rng(9)

    def do() -> None:
        with socket.create_connection((place.hostname, place.port), timeout=5) as connection:
            connection.sendall(GARBAGE[numbers.integers(len(GARBAGE))])
            time.sleep(0.2)

    return do


def _slope(sizes: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """The line through the memory once it is warm, MB a minute, and how sure that is (two standard errors)."""
    start = sizes[0][0]
    times, bytes_ = np.array([(at - start, size) for at, size in sizes if at - start >= WARM] or sizes, float).T
    if len(times) < 3:
        return {"MB at the end": round(bytes_[-1] / 1e6, 1)}
    (slope, _), covariance = np.polyfit(times / 60, bytes_ / 1e6, 1, cov=True)
    return {
        "MB when warm": round(bytes_[0] / 1e6, 1),
        "MB at the end": round(bytes_[-1] / 1e6, 1),
        "MB a minute": round(float(slope), 3),
        "give or take": round(2 * float(np.sqrt(covariance[0, 0])), 3),
    }
