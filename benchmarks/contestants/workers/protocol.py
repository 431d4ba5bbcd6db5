"""How a trial speaks with a contestant: orders come in on standard input, one JSON object a line, answers go out.

This file runs in every contestant's environment: Python's own library and numpy, nothing else, not latentrt either.
Each answer is `{"found": ...}` or `{"error": "one line"}`. Whatever libraries print goes to standard error. Arrays
travel as `.npz` files, whose paths are in the orders.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from .contestant import Array, Asked, Clock, Contestant, png


def serve(contestant: Contestant) -> None:
    """Answer a trial's orders until the input ends."""
    orders = _Orders(contestant).by_name

    def found(order: dict[str, Any]) -> Any:
        name = order.pop("do", None)
        if name not in orders:
            raise ValueError(f"there is no order {name!r}; known: {', '.join(orders)}")
        return orders[name](**order)

    answer_orders(found)


def answer_orders(found: Callable[[dict[str, Any]], Any]) -> None:
    """Answer each order on standard input with what is `found` for it, or with the error in one line."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    for line in sys.stdin:
        try:
            answer = {"found": found(json.loads(line))}
        except Exception as error:  # whatever a library raises is what the results say
            answer = {"error": _one_line(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _end_with(parent: int) -> None:
    """End when whoever gives orders is no more, in the middle of one too."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


class _Orders:
    """What a trial may ask of a contestant: an order's name is its method's, its words are the arguments."""

    def __init__(self, contestant: Contestant) -> None:
        self._contestant = contestant
        self.by_name: dict[str, Callable[..., Any]] = {
            "prepare": self._prepare,
            "open": self._open,
            "draw": self._draw,
            "component": self._component,
            "load": self._load,
            "memory": self._memory,
        }

    def _prepare(self, source: str, target: str, options: dict[str, Any]) -> None:
        self._contestant.prepare(Path(source), Path(target), options)

    def _open(self, model: str, options: dict[str, Any]) -> dict[str, Any]:
        contestant = self._contestant
        started = time.perf_counter()
        contestant.open(Path(model), options)
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "versions": {name: found for name in contestant.packages if (found := _version(name))},
            "takes latents": contestant.takes_latents,
            "components": list(contestant.components),
            "torch noise": contestant.torch_noise,
            "notes": contestant.notes,
            "files": contestant.files(Path(model)),
        }

    def _draw(self, keep: str | None = None, **asked: Any) -> dict[str, Any]:
        clock = self._contestant.clock = Clock()
        wanted = _asked(asked)
        started = time.perf_counter()
        drawn = self._contestant.draw(wanted)
        decoded = time.perf_counter()
        for image in drawn.images:
            png(image)
        ended = time.perf_counter()
        if keep is not None:
            kept = {"images": drawn.images, "latents": drawn.latents, "steps": drawn.steps}
            np.savez(keep, **{name: array for name, array in kept.items() if array is not None})
        return {
            "prompt to PNG bytes": ended - started,
            "denoise+decode": None if clock.encoded is None else decoded - clock.encoded,
            "components": clock.components,
        }

    def _component(self, name: str, feeds: str, calls: int, keep: str | None = None) -> list[float]:
        with np.load(feeds) as file:
            given = dict(file)
        seconds = []
        outputs: dict[str, Array] = {}
        for _ in range(calls):
            started = time.perf_counter()
            outputs = self._contestant.component(name, given)
            seconds.append(time.perf_counter() - started)
        if keep is not None:
            np.savez(keep, **outputs)
        return seconds

    def _load(self, clients: int, asked: list[dict[str, Any]]) -> dict[str, Any]:
        started = time.perf_counter()
        latencies = self._contestant.load([_asked(one) for one in asked], clients)
        return {"seconds": time.perf_counter() - started, "latencies": latencies}

    def _memory(self) -> dict[str, Any]:
        return {"rss": _peak_rss(), "gpu": self._contestant.gpu_peak()}


def _asked(words: dict[str, Any]) -> Asked:
    latents = words.pop("latents", None)
    return Asked(**words, latents=None if latents is None else np.load(latents))


def _peak_rss() -> int:
    """The greatest resident set of this process, in bytes, as Linux counts it: mapped files that were read too."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _one_line(error: Exception) -> str:
    """All of it, as some libraries say where before they say what."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
