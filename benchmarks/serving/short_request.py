"""How long a request of few steps takes while long ones fill the server, against alone."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .load import ask, closed_loop
from .served import Served, served

SHORT, LONG, CLIENTS = 4, 50, 4  # steps; four guided requests are eight rows


def short_request(bundle: Path, options: Sequence[str], body: Mapping[str, Any], requests: int) -> dict[str, Any]:
    """Ask for short pictures alone, then while four clients keep the server full of long ones."""
    short, long = ({**body, "num_inference_steps": steps} for steps in (SHORT, LONG))
    with served(bundle, *options) as server:
        closed_loop(server, CLIENTS, short, lambda sent: sent < 2)  # does not count
        alone, own_step = _timed(server, short, requests)
        ending = threading.Event()
        filling = threading.Thread(target=closed_loop, args=(server, CLIENTS, long, lambda _: not ending.is_set()))
        filling.start()
        while server.metric("latentrt_live_pictures") < CLIENTS:
            ending.wait(0.05)
        among, full_step = _timed(server, short, requests)
        ending.set()
        filling.join()
    slower = among["p99, s"] / alone["p99, s"]
    steps = full_step / own_step
    return {
        "alone": alone,
        "among long ones": among,
        "own step, s": own_step,
        "full step, s": full_step,
        "p99 among over p99 alone": slower,
        "full step over own step": steps,
        "one over the other": slower / steps,
    }


def _timed(server: Served, body: Mapping[str, Any], requests: int) -> tuple[dict[str, Any], float]:
    """Latencies of so many requests, one after another, and what a step took meanwhile on average."""
    before = _steps(server)
    with server.client() as client:
        seconds = [ask(client, {**body, "seed": index}).seconds for index in range(requests)]
    taken, steps = (now - then for now, then in zip(_steps(server), before, strict=True))
    p50, p99 = (float(value) for value in np.percentile(seconds, (50, 99)))
    return {"p50, s": p50, "p99, s": p99, "samples": seconds}, taken / steps


def _steps(server: Served) -> tuple[float, float]:
    """Seconds and number of all steps so far."""
    sum_, count = (server.metric(f"latentrt_turn_seconds_{what}", kind="step") for what in ("sum", "count"))
    return sum_, count
