"""Look at a picture's pixels and say what is on it: background, and the main shape with its colour.

Shares no code with the training: colours are told by the nearest of eight reference values, shapes by laying its own
outlines over the largest connected region.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 220, 50),
    "green": (40, 160, 70),
    "blue": (40, 80, 210),
    "purple": (140, 60, 170),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
_FIFTH = 2 * np.pi / 5
_OUTLINES: dict[str, list[tuple[float, float]]] = {  # corners; only their proportions count
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "diamond": [(0, -1), (1, 0), (0, 1), (-1, 0)],
    "triangle": [(0, -1), (1, 1), (-1, 1)],
    "circle": [(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 120)],
    "star": [
        (r * np.sin(i * _FIFTH / 2), -r * np.cos(i * _FIFTH / 2)) for i in range(10) for r in ((1.0, 0.42)[i % 2],)
    ],
    "cross": [
        (-1 / 3, -1), (1 / 3, -1), (1 / 3, -1 / 3), (1, -1 / 3), (1, 1 / 3), (1 / 3, 1 / 3),
        (1 / 3, 1), (-1 / 3, 1), (-1 / 3, 1 / 3), (-1, 1 / 3), (-1, -1 / 3), (-1 / 3, -1 / 3),
    ],
}  # fmt: skip

BORDER = 4  # pixels around the edge that show the background
MIN_EVENNESS = 0.5  # of the border must be of one colour: else there is no background for a shape to stand on
MIN_AREA = 60  # pixels; a smaller region is a speck
MIN_OVERLAP = 0.75  # intersection over union with the best outline; a shape of another kind stays below
MAX_CLUTTER = 0.25  # a second region of this share of the first makes it a picture of two things
_GRID = 96  # pixels on a side that outlines are compared at


@dataclass(frozen=True)
class Sighting:
    """What the checker found; `shape` and `colour` are None where there is no single clear thing."""

    background: str
    shape: str | None
    colour: str | None
    overlap: float


def look(image: NDArray[np.uint8]) -> Sighting:
    """Name what is on an RGB picture, (height, width, 3) uint8."""
    names = list(COLOURS)
    references = np.array(list(COLOURS.values()), np.float32)
    distance = np.square(image[:, :, None].astype(np.float32) - references).sum(-1)  # (h, w, 8)
    labels = distance.argmin(-1)
    edge = np.ones(labels.shape, bool)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    background = _most_common(labels[edge])
    if (labels[edge] == background).mean() < MIN_EVENNESS:
        return Sighting(names[background], None, None, 0.0)
    region, share_of_second = _largest_region(labels != background)
    if region is None or share_of_second > MAX_CLUTTER:
        return Sighting(names[background], None, None, 0.0)
    inside = ndimage.binary_erosion(region, iterations=2)  # the antialiased edge mixes two colours into a third
    colour = _most_common(labels[inside if inside.any() else region])
    shape, overlap = _best_outline(region)
    return Sighting(names[background], shape if overlap >= MIN_OVERLAP else None, names[colour], overlap)


def _most_common(labels: NDArray[np.intp]) -> int:
    return int(np.bincount(labels.ravel(), minlength=len(COLOURS)).argmax())


def _largest_region(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_] | None, float]:
    regions, count = ndimage.label(mask)
    if count == 0:
        return None, 0.0
    areas = np.bincount(regions.ravel())[1:]
    order = areas.argsort()[::-1]
    if areas[order[0]] < MIN_AREA:
        return None, 0.0
    second = areas[order[1]] / areas[order[0]] if count > 1 else 0.0
    return regions == order[0] + 1, float(second)


def _best_outline(region: NDArray[np.bool_]) -> tuple[str, float]:
    rows, columns = np.nonzero(region)
    crop = region[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    resized = np.asarray(Image.fromarray(crop).resize((_GRID, _GRID), Image.Resampling.NEAREST))
    overlaps = {name: float((resized & mask).sum() / (resized | mask).sum()) for name, mask in _masks().items()}
    best = max(overlaps, key=lambda name: overlaps[name])
    return best, overlaps[best]


@cache
def _masks() -> dict[str, NDArray[np.bool_]]:
    """Each outline, filled and stretched to its bounding box."""
    masks = {}
    for name, corners in _OUTLINES.items():
        points = np.array(corners)
        low, high = points.min(0), points.max(0)
        scaled = (points - low) / (high - low) * (_GRID - 1)
        image = Image.new("1", (_GRID, _GRID))
        ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in scaled], fill=1)
        masks[name] = np.asarray(image)
    return masks
