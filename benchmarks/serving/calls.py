"""What a call of the UNet takes by its rows: the most that requests can gain by sharing calls."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from latentrt.engines.bundle import Bundle
from latentrt.engines.choice import Wanted
from latentrt.engines.engine_set import open_engine
from latentrt.engines.golden import golden_cases
from latentrt.engines.manifest import UNET

ROWS = (2, 4, 8, 16)  # one guided picture, and more


def calls(bundle: Path, wanted: Wanted, rounds: int) -> dict[str, Any]:
    """Calls of each number of rows in turn, with one of the bundle's recorded calls repeated to so many rows."""
    opened = Bundle.open(bundle)
    recorded = golden_cases(opened, UNET)[0].inputs
    feeds = {rows: {name: np.resize(one, (rows, *one.shape[1:])) for name, one in recorded.items()} for rows in ROWS}
    samples: dict[int, list[float]] = defaultdict(list)
    with open_engine(opened, UNET, wanted) as unet:
        for number in range(rounds + 1):
            for rows in ROWS:
                started = time.perf_counter()
                unet.run(feeds[rows])
                if number:  # the first does not count
                    samples[rows].append(time.perf_counter() - started)
    seconds = {rows: median(some) for rows, some in samples.items()}
    each_row, fixed = np.polyfit(ROWS, [seconds[rows] for rows in ROWS], 1)
    alone = seconds[ROWS[0]] / ROWS[0]
    return {
        "latent": list(recorded["sample"].shape[2:]),
        "ms a call": {rows: round(1e3 * taken, 2) for rows, taken in seconds.items()},
        "gain": {rows: round(alone * rows / taken, 3) for rows, taken in seconds.items()},
        "fixed, ms": round(1e3 * float(fixed), 2),
        "each row, ms": round(1e3 * float(each_row), 2),
        "samples": samples,
    }
