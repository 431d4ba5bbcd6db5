"""latentrt's worker, slowed down on purpose: for `gate_trials.py`, which asks whether the gate notices."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ..contestants.workers.latentrt_worker import LatentrtContestant
from ..contestants.workers.protocol import serve

_SIDE = 256  # of a product that numpy shares among all cores, as a network's call does; a fraction of a millisecond


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
    plain, matrix = engine.run, np.ones((_SIDE, _SIDE), np.float32)

    def run(feeds: Any) -> Any:
        started = time.perf_counter()
        answer = plain(feeds)
        until = time.perf_counter() + share * (time.perf_counter() - started)
        while time.perf_counter() < until:
            np.matmul(matrix, matrix)
        return answer

    engine.run = run


if __name__ == "__main__":
    serve(SlowedContestant())
