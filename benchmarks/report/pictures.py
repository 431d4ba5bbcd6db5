"""Contestants' pictures beside the reference's, and what differs, as images that lie inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..trial.results import Results
from .accuracy_tables import reference_name
from .table import ordered

MOST_PROMPTS = 4  # whose pictures are in the page; all of them lie beside it
MOST_SIDE = 384  # pixels; a larger picture is shown smaller
_FACTORS = (64, 32, 16, 8, 4, 2, 1)
_UNCLIPPED = 0.995  # of the differing values: what a difference image must show below white

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """One contestant's picture of one prompt; `difference` and its figures are of the reference's."""

    contestant: str
    picture: str | None
    difference: str | None = None
    factor: int = 1
    largest: int = 0
    missing: str = ""


@dataclass(frozen=True)
class Row:
    """One prompt by every contestant."""

    prompt: str
    reference: str | None
    shown: tuple[Shown, ...]


def rows(results: Results, folder: Path) -> list[Row]:
    """The first prompts' pictures; a file that is not there, or is no picture, is said."""
    if not results.pictures:
        return []
    names = [name for name, _ in ordered(results) if results.pictures.get(name)]
    reference = reference_name(results)
    if reference not in names:
        reference = names[0] if names else None
    prompts = results.settings.prompts[:MOST_PROMPTS]
    return [_row(results, folder, names, reference, index, prompt) for index, prompt in enumerate(prompts)]


def _row(results: Results, folder: Path, names: list[str], reference: str | None, index: int, prompt: str) -> Row:
    files = {name: results.pictures[name][index] for name in names if index < len(results.pictures[name])}
    read = {name: _read(folder, file) for name, file in files.items()}
    exact = read.get(reference or "")
    shown = tuple(_shown(name, found, None if name == reference else exact) for name, found in read.items())
    return Row(prompt, reference if isinstance(exact, np.ndarray) else None, shown)


def _shown(name: str, found: Pixels | str, exact: Pixels | str | None) -> Shown:
    if isinstance(found, str):
        return Shown(name, None, missing=found)
    if not isinstance(exact, np.ndarray):
        return Shown(name, _inline(found))
    if found.shape != exact.shape:
        return Shown(name, _inline(found), missing="its size is another than the reference's")
    apart = np.abs(found.astype(np.int16) - exact)
    factor = amplification(apart)
    image = np.clip(apart * factor, 0, 255).astype(np.uint8)
    return Shown(name, _inline(found), _inline(image), factor, int(apart.max()))


def amplification(apart: NDArray[np.int16]) -> int:
    """The largest power of two, 64 at most, that leaves nearly all differences below white."""
    differing = apart[apart > 0]
    if differing.size == 0:
        return 1
    return next(factor for factor in _FACTORS if factor == 1 or float(np.mean(differing * factor <= 255)) >= _UNCLIPPED)


def _read(folder: Path, file: str) -> Pixels | str:
    """A picture's pixels, or why there are none. Only files below the results' folder are read."""
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()):
        return f"{file} lies outside of the results' folder"
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError):
        return f"{file} is not there or is no picture"


def _inline(pixels: Pixels) -> str:
    """A PNG as a data URI, made smaller where it is large."""
    image = Image.fromarray(pixels)
    if max(image.size) > MOST_SIDE:
        image.thumbnail((MOST_SIDE, MOST_SIDE), Image.Resampling.BOX)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
