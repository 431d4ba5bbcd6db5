"""A server that is told to stop while it draws: what was taken in is finished, what comes later is refused."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from .load import LOST, Answered, ask
from .served import Served, served

CLIENTS = 8  # four guided pictures are drawn together, and four wait
STEPS = (20, 40)  # of each request, from and to
UNTIL_STOP = 0.5  # seconds at most, after all eight were taken in


def sigterm(bundle: Path, options: Sequence[str], body: Mapping[str, Any], repeats: int) -> dict[str, Any]:
    """Start a server, have eight requests under way, and stop it; so many times, each at another moment."""
    numbers = np.random.default_rng(6)
    runs = [_stopped(bundle, options, body, numbers) for _ in range(repeats)]
    seconds = [run["seconds"] for run in runs]
    return {
        "runs": repeats,
        "in flight": sum(run["in flight"] for run in runs),
        "finished": sum(run["finished"] for run in runs),
        "exit statuses": dict(Counter(str(run["exit"]) for run in runs)),
        "s to exit": {"median": round(median(seconds), 2), "most": round(max(seconds), 2)},
        "asked after it": dict(sum((run["later"] for run in runs), Counter())),
        "samples, s": seconds,
    }


def _stopped(
    bundle: Path, options: Sequence[str], body: Mapping[str, Any], numbers: np.random.Generator
) -> dict[str, Any]:
    with served(bundle, *options) as server, ThreadPoolExecutor(CLIENTS) as threads:
        steps = [int(count) for count in numbers.integers(*STEPS, CLIENTS)]
        asked = [threads.submit(_ask, server, {**body, "num_inference_steps": one}) for one in steps]
        while server.metric("latentrt_live_requests") + _done(asked) < CLIENTS:
            time.sleep(0.01)
        time.sleep(numbers.uniform(0, UNTIL_STOP))
        in_flight = [one for one in asked if not one.done()]
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        later = _ask_until_it_is_gone(server, body)
        status = server.process.wait()
        seconds = time.monotonic() - began
        finished = sum(one.result().status == 200 for one in in_flight)
    return {"in flight": len(in_flight), "finished": finished, "exit": status, "seconds": seconds, "later": later}


def _ask(server: Served, body: Mapping[str, Any]) -> Answered:
    with server.client() as client:
        return ask(client, body)


def _done(asked: Sequence[Future[Answered]]) -> int:
    return sum(one.done() for one in asked)


def _ask_until_it_is_gone(server: Served, body: Mapping[str, Any]) -> Counter[str]:
    """Answers by status until no connection is to be had, which is not counted."""
    answers: Counter[str] = Counter()
    while (answered := _ask(server, body)).status != LOST:
        answers[str(answered.status)] += 1
        time.sleep(0.05)
    return answers
