"""latentrt's worker, slowed down on purpose: for `gate_trials.py`, which asks whether the gate notices."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..contestants.workers.latentrt_worker import LatentrtContestant
from ..contestants.workers.protocol import serve

_BLOCK = bytes(2**16)  # hashed in some 50 microseconds, without Python's lock


class SlowedContestant(LatentrtContestant):
    """As latentrt; the option `slower` is the share of each call's time that all cores work on after it."""

    def open(self, model: Path, options: dict[str, Any]) -> None:
        """As `LatentrtContestant.open`."""
        share = options.pop("slower")
        super().open(model, options)
        if share:  # else nothing stands between: the code is unchanged
            for engine in {id(engine): engine for engine in self._engines.values()}.values():
                _slow_down(engine, share)


def _slow_down(engine: Any, share: float) -> None:
    plain, cores = engine.run, len(os.sched_getaffinity(0))
    pool = ThreadPoolExecutor(cores)

    def run(feeds: Any) -> Any:
        started = time.perf_counter()
        answer = plain(feeds)
        until = time.perf_counter() + share * (time.perf_counter() - started)
        list(pool.map(_work, [until] * cores))
        return answer

    engine.run = run


def _work(until: float) -> None:
    while time.perf_counter() < until:
        hashlib.sha256(_BLOCK)


if __name__ == "__main__":
    serve(SlowedContestant())
