"""Four times as many clients as a server takes in: who is answered, how fast, and that nobody is lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .load import LOST, closed_loop
from .served import served

QUEUE, SLOTS = 4, 4
TIMES = 4  # as many clients as there is room for


def overload(bundle: Path, options: Sequence[str], body: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Clients that ask again at once, whatever they were answered, for so many seconds."""
    clients = TIMES * (QUEUE + SLOTS)
    with served(bundle, "--max-rows", str(2 * SLOTS), "--max-queue", str(QUEUE), *options) as server:
        closed_loop(server, SLOTS, body, lambda sent: sent < 1)  # does not count
        end = time.perf_counter() + seconds

        def go_on(sent: int) -> bool:
            if sent:
                time.sleep(0.25)  # as a client that heeds no Retry-After
            return time.perf_counter() < end

        answers = closed_loop(server, clients, body, go_on)
    taken, refused = ([one.seconds for one in answers if one.status == status] for status in (200, 503))
    return {
        "clients": clients,
        "answers": dict(Counter(str(one.status) for one in answers)),
        "lost": sum(one.status == LOST for one in answers),
        "taken in": _told(taken),
        "refused": _told(refused),
    }


def _told(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    p50, p99 = np.percentile(seconds, (50, 99))
    return {"p50, s": round(float(p50), 4), "p99, s": round(float(p99), 4), "most, s": round(max(seconds), 4)}
