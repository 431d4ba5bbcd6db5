"""What a call of the UNet takes by its rows: the most that requests can gain by sharing calls."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.bundle import Bundle
from latentrt.engines.calls import call_shapes
from latentrt.engines.choice import Wanted
from latentrt.engines.engine_set import open_engine
from latentrt.engines.manifest import UNET
from latentrt.engines.size import Size
from latentrt.engines.tensor import blank_feeds

ROWS = (2, 4, 8, 16)  # one guided picture, and more
_TIMESTEP = 500.0  # a network takes the same time for each


def calls(bundle: Path, wanted: Wanted, size: Size | None, rounds: int) -> dict[str, Any]:
    """Calls of each number of rows in turn, for pictures of `size`; of the model's own without one."""
    opened = Bundle.open(bundle)
    side = opened.manifest.model.default_size
    shapes = call_shapes(opened, UNET, size or (side, side))
    feeds = {rows: _feeds(opened, shapes | {"rows": rows}) for rows in ROWS}
    samples: dict[int, list[float]] = defaultdict(list)
    with open_engine(opened, UNET, wanted) as unet:
        for number in range(rounds + 1):
            for rows in ROWS:
                started = time.perf_counter()
                unet.run(feeds[rows])
                if number:  # the first does not count
                    samples[rows].append(time.perf_counter() - started)
    seconds = {rows: median(some) for rows, some in samples.items()}
    alone = seconds[ROWS[0]] / ROWS[0]
    return {
        "ms a call": {rows: round(1e3 * taken, 2) for rows, taken in seconds.items()},
        "gain": {rows: round(alone * rows / taken, 3) for rows, taken in seconds.items()},
        "samples": samples,
    }


def _feeds(bundle: Bundle, shapes: dict[str, int]) -> dict[str, NDArray[Any]]:
    noise = np.random.default_rng(0)
    blank = blank_feeds(bundle.component(UNET).inputs, shapes)
    feeds = {name: noise.standard_normal(one.shape, np.float32) for name, one in blank.items()}
    return feeds | {"timestep": np.full_like(feeds["timestep"], _TIMESTEP)}
