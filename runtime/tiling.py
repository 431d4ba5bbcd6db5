"""Decode latents in overlapping tiles, so that memory depends on the tile and not on the picture.

The decoder is not local: its middle attends to the whole picture, and its group normalisation takes mean and deviation
over it. A tile sees only itself, so a tiled picture differs from a whole one: a little everywhere, and not at its seams
alone. How much is measured: `benchmarks/tiling.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.engine import Engine

from .checks import check_count

LEAST, MOST = 8, 512  # latents on a side of a tile
AT_ONCE = 64 * 64  # latents that share a call of the decoder: one picture of 512x512, Stable Diffusion's own size
_OVERLAP = 4  # a quarter of a tile is shared with the next

Picture = NDArray[np.float32]


def check_tile(tile: int | None) -> None:
    """Check an option that is the side of a tile, in latents, or None.

    Raises:
        InputError: out of range.
    """
    if tile is not None:
        check_count("tile", tile, LEAST, MOST)


def decode(engine: Engine, latents: Picture, tile: int | None, at_once: int = 1) -> Picture:
    """Scaled latents (n, 4, h, w) to pictures (n, 3, 8h, 8w), in tiles if asked for.

    Whole ones share a call where the engine takes it and they cover no more than `at_once` (h * w), so that a call
    needs no more memory than one picture of that size; the others are decoded one after another.
    """
    name, height, width = engine.inputs[0].name, *latents.shape[2:]

    def run(some: Picture) -> Picture:
        return engine.run({name: some})[engine.outputs[0].name]

    if tile is not None and max(height, width) > tile:
        return np.concatenate([decode_tiled(run, row[None], tile) for row in latents])
    count = max(1, at_once // (height * width))
    if not engine.takes({name: latents[:count]}):
        count = 1
    return np.concatenate([run(latents[start : start + count]) for start in range(0, len(latents), count)])


def decode_tiled(decode: Callable[[Picture], Picture], latents: Picture, tile: int) -> Picture:
    """Latents (1, 4, h, w) to a picture (1, 3, f * h, f * w), by calls of `decode` on at most `tile` latents a side.

    Tiles are of one size (so one profile holds them), spread evenly, and share at least a quarter of their side with
    their neighbours, over which one fades linearly into the other. Latents that fit a tile are decoded whole.
    """
    height, width = latents.shape[2:]
    tops, lefts = _starts(height, tile), _starts(width, tile)
    if len(tops) == len(lefts) == 1:
        return decode(latents)
    rows, columns = min(height, tile), min(width, tile)
    total: Picture | None = None
    for top, left in product(tops, lefts):
        picture = decode(np.ascontiguousarray(latents[:, :, top : top + rows, left : left + columns]))
        factor = picture.shape[2] // rows
        if total is None:
            total = np.zeros((1, picture.shape[1], factor * height, factor * width), np.float32)
            shares = np.zeros((factor * height, factor * width), np.float32)
        share = np.outer(_fade(top, tops, rows, factor), _fade(left, lefts, columns, factor))
        place = np.s_[factor * top : factor * (top + rows), factor * left : factor * (left + columns)]
        total[0, :, *place] += picture[0] * share
        shares[place] += share
    assert total is not None
    return np.asarray(total / shares, np.float32)


def _starts(side: int, tile: int) -> list[int]:
    """Where tiles begin along a side: as few as overlap by a quarter, spread evenly."""
    if side <= tile:
        return [0]
    overlap = tile // _OVERLAP
    count = math.ceil((side - overlap) / (tile - overlap))
    return [round(i * (side - tile) / (count - 1)) for i in range(count)]


def _fade(start: int, starts: list[int], tile: int, factor: int) -> NDArray[np.float32]:
    """The share that a tile has of each pixel along a side, before shares are made to add up to 1: (factor * tile,)."""
    index, pixels = starts.index(start), factor * tile
    share = np.ones(pixels, np.float32)
    if index > 0:
        overlap = factor * (starts[index - 1] + tile - start)
        share[:overlap] = (np.arange(overlap, dtype=np.float32) + np.float32(0.5)) / np.float32(overlap)
    if index < len(starts) - 1:
        overlap = factor * (start + tile - starts[index + 1])
        fading = (np.arange(overlap, dtype=np.float32)[::-1] + np.float32(0.5)) / np.float32(overlap)
        share[pixels - overlap :] = np.minimum(share[pixels - overlap :], fading)
    return share
