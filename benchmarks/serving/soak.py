"""Minutes of clients as they come: who was answered how, what is left in the server at the end, and its memory."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .served import Served, served
from .soak_clients import KINDS, LOST, SECONDS, Kind, good

EVERY = 2.0  # seconds between two looks at the memory
BLOCK = 30.0  # seconds of memory that are drawn together: what is near in time is alike
DRAWS = 2000
_LEFT = ("latentrt_live_requests", "latentrt_live_pictures", "latentrt_queue_length")
_STATUSES = ("500", "503", "504")


def soak(bundle: Path, options: Sequence[str], body: Mapping[str, Any], minutes: float) -> dict[str, Any]:
    """Serve for so long; returns what each kind of client met with, what was left, and how the memory went."""
    asked = [(name, kind, Counter[str]()) for name, kind in KINDS.items() for _ in range(kind.clients)]
    sizes: list[tuple[float, int]] = []
    with served(bundle, "--request-timeout", f"{SECONDS:g}", *options) as server:
        files, began = server.open_files(), time.monotonic()
        end = began + 60 * minutes
        threads = [
            threading.Thread(target=_repeat, args=(server, body, kind, answers, seed, end))
            for seed, (_, kind, answers) in enumerate(asked)
        ]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            sizes.append((time.monotonic() - began, server.rss()))
            time.sleep(EVERY)
        for thread in threads:
            thread.join()
        left = _left(server)
        statuses = {name: server.metric("latentrt_http_answers_total", status=name) for name in _STATUSES}
        outcomes = {one.labels["outcome"]: one.value for one in server.samples() if one.name == _OUTCOMES}
        more_files = server.open_files() - files
        last = good(server, body, np.random.default_rng(0))
    answers = {name: sum((one for kind, _, one in asked if kind == name), Counter[str]()) for name in KINDS}
    return {
        "minutes": minutes,
        "asked": sum(sum(some.values()) for some in answers.values()),
        "answers": {name: dict(some) for name, some in answers.items()},
        "lost": sum(some[LOST] for some in answers.values()),
        "unexpected": sum(
            count for name, some in answers.items() for how, count in some.items() if how not in KINDS[name].expected
        ),
        "answered 5xx": statuses,
        "requests by outcome": outcomes,
        "left in the server": left,
        "open files more than at the beginning": more_files,
        "a picture at the end": last,
        "memory": memory_line(sizes),
        "samples, s and bytes": sizes,
    }


_OUTCOMES = "latentrt_request_seconds_count"


def _repeat(server: Served, body: Mapping[str, Any], kind: Kind, answers: Counter[str], seed: int, end: float) -> None:
    numbers = np.random.default_rng(seed)
    while time.monotonic() < end:
        try:
            how = kind.ask(server, body, numbers)
        except OSError:  # no connection, or it broke in the middle
            how = LOST
        answers[how] += 1


def _left(server: Served) -> dict[str, float]:
    """What the server holds when every client is gone; it may take a moment to hear of the last."""
    for _ in range(100):
        left = {name: server.metric(name) for name in _LEFT}
        if not any(left.values()):
            break
        time.sleep(0.1)
    return left


def memory_line(sizes: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """The line of least squares through the second half of (seconds, bytes), in MB a minute, with its 95 % interval.

    The interval is that of a moving block bootstrap of what is left beside the line.
    """
    seconds, size = np.array(sizes, np.float64).T
    late = seconds >= seconds[-1] / 2
    x, y = seconds[late] / 60, size[late] / 1e6
    told = {"MB at half time": round(float(y[0]), 1), "MB at the end": round(float(y[-1]), 1)}
    if len(x) < 4:
        return {**told, "MB a minute": 0.0, "95 %": [0.0, 0.0]}
    slope, offset = np.polyfit(x, y, 1)
    line = slope * x + offset
    slopes = [np.polyfit(x, line + beside, 1)[0] for beside in _redrawn(y - line, int(BLOCK / EVERY))]
    interval = [round(float(value), 3) for value in np.percentile(slopes, (2.5, 97.5))]
    return {**told, "MB a minute": round(float(slope), 3), "95 %": interval}


def _redrawn(values: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """So many series as long as this one, of blocks of it: (DRAWS, n)."""
    n = len(values)
    block = min(block, n // 2)
    starts = np.random.default_rng(0).integers(0, n - block + 1, (DRAWS, -(-n // block)))
    places = (starts[:, :, None] + np.arange(block)).reshape(DRAWS, -1)[:, :n]
    drawn: NDArray[np.float64] = values[places]
    return drawn
