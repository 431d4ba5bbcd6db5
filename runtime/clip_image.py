"""A picture as CLIP's vision model takes it: resized, its middle cut out, and normalised, as transformers does it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentrt.engines.manifest import SafetyFacts


def clip_pixels(image: Image.Image, facts: SafetyFacts) -> NDArray[np.float32]:
    """A picture of any size -> (3, image_size, image_size) float32: `CLIPImageProcessor` of transformers, with Pillow.

    The shorter side becomes `shortest_edge`, bicubic, in 8 bits; what lies beyond the square in the middle is lost.
    """
    rgb = image.convert("RGB").resize(_resized(image.size, facts.shortest_edge), Image.Resampling.BICUBIC)
    square = _centre(np.asarray(rgb), facts.image_size)  # (side, side, 3) uint8
    unit = (square.astype(np.float64) * (1 / 255)).astype(np.float32)
    normalised = (unit - np.array(facts.image_mean, np.float32)) / np.array(facts.image_std, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def _resized(size: tuple[int, int], shortest_edge: int) -> tuple[int, int]:
    """Width and height with the shorter one at `shortest_edge`, the other rounded down."""
    width, height = size
    if width <= height:
        return shortest_edge, int(shortest_edge * height / width)
    return int(shortest_edge * width / height), shortest_edge


def _centre(pixels: NDArray[Any], side: int) -> NDArray[Any]:
    """The square in the middle, black where the picture does not reach; the odd row or column goes below and right."""
    height, width = pixels.shape[:2]
    top, left = (height - side) // 2, (width - side) // 2
    if top < 0 or left < 0:
        rows, columns = max(0, -top), max(0, -left)
        pixels = np.pad(pixels, ((rows, rows), (columns, columns), (0, 0)))
        top, left = top + rows, left + columns
    return pixels[top : top + side, left : left + side]
