"""How far a contestant's answers are from the reference's: the same feeds, the same start noise, the same prompts.

What cannot be compared has no figures, and the accuracy's `note` says why: an average over what is left would hide it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from latentrt.engines.metrics import difference, find

from .kept import Arrays, Kept, read_arrays
from .results import MOST_PSNR, Accuracy, Compared, Metric, Spread

BLACK_TO_WHITE = 255.0  # the range of an 8-bit picture, for PSNR and SSIM
SSIM_WINDOW = 7  # pixels on a side, as scikit-image has it; a smaller picture has no SSIM
_LARGE_IS_BAD: tuple[Metric, ...] = ("max abs", "relative L2")  # of the others, small is

Array = NDArray[Any]
Figures = dict[Metric, float]
Compare = Callable[[Array, Array], Figures]


class _NotComparableError(Exception):
    """Why two arrays have no figures."""


@dataclass
class _Notes:
    """What is to be said, each thing once and in order."""

    said: list[str] = field(default_factory=list)

    def add(self, words: str) -> None:
        if words not in self.said:
            self.said.append(words)

    @property
    def text(self) -> str | None:
        return "; ".join(self.said) or None


def compare(reference: Kept, candidate: Kept) -> Accuracy:
    """The distance of a candidate's kept arrays from the reference's.

    A picture's figures are of its 8 bits, PSNR and SSIM over 255 levels; of other arrays PSNR takes the reference's own
    range. Equal arrays have PSNR `MOST_PSNR`.

    Raises:
        InputError: a file of either is not there or is damaged.
    """
    notes = _Notes()
    components = {
        name: figures
        for name, file in reference.components.items()
        if (figures := _component(name, file, candidate.components.get(name), notes)) is not None
    }
    pairs = list(_pairs(reference, candidate, notes))
    steps = _steps(pairs, notes)
    latents = _over_prompts(_named(pairs, "latents", notes), "the final latents", plain_figures, notes)
    picture = _over_prompts(_named(pairs, "images", notes), "the picture", picture_figures, notes)
    return Accuracy(
        reference=reference.name,
        components=components,
        steps=steps,
        latents=latents,
        picture=picture,
        note=notes.text,
    )


def plain_figures(answer: Array, expected: Array) -> Figures:
    """Figures of any array; those that would be infinite are left out."""
    found = difference(answer, expected)
    if found.finding == "wrong shape":
        raise _NotComparableError(f"shape {answer.shape} where the reference has {expected.shape}")
    if found.finding in ("NaN", "Inf"):
        raise _NotComparableError(found.finding)
    if not np.isfinite(expected).all():
        raise _NotComparableError("the reference holds NaN or Inf")
    figures: Figures = {
        "max abs": found.max_abs,
        "relative L2": found.relative_l2,
        "cosine": found.cosine,
        "PSNR, dB": min(MOST_PSNR, found.psnr),
    }
    return {metric: value for metric, value in figures.items() if np.isfinite(value)}


def picture_figures(answer: Array, expected: Array) -> Figures:
    """Figures of pictures (n, height, width, 3) uint8, SSIM among them: the mean over n."""
    figures = plain_figures(answer, expected)
    error = np.square(answer.astype(np.float64) - expected).mean()
    figures["PSNR, dB"] = MOST_PSNR if error == 0 else min(MOST_PSNR, 10 * np.log10(BLACK_TO_WHITE**2 / error))
    if min(answer.shape[1:3]) >= SSIM_WINDOW:
        similar = (
            structural_similarity(a, e, channel_axis=-1, data_range=BLACK_TO_WHITE, win_size=SSIM_WINDOW)
            for a, e in zip(answer, expected, strict=True)
        )
        figures["SSIM"] = float(np.mean(list(similar)))
    return figures


def spread(figures: Sequence[Figures]) -> Compared:
    """The middle and the worst of each metric that all of them have."""
    metrics = [metric for metric in figures[0] if all(metric in one for one in figures)]
    compared: Compared = {}
    for metric in metrics:
        values = [one[metric] for one in figures]
        worst = max(values) if metric in _LARGE_IS_BAD else min(values)
        compared[metric] = Spread(p50=float(median(values)), worst=float(worst))
    return compared


def _pairs(reference: Kept, candidate: Kept, notes: _Notes) -> Iterator[tuple[Arrays, Arrays]]:
    """The candidate's and the reference's arrays, by prompt."""
    if len(reference.pictures) != len(candidate.pictures):
        if candidate.pictures:
            notes.add(f"{len(candidate.pictures)} pictures against the reference's {len(reference.pictures)}")
        else:
            notes.add("it gave no pictures to compare")
        return
    for theirs, ours in zip(reference.pictures, candidate.pictures, strict=True):
        yield read_arrays(ours), read_arrays(theirs)


def _named(pairs: Sequence[tuple[Arrays, Arrays]], name: str, notes: _Notes) -> list[tuple[Array, Array]]:
    """One of the arrays of every prompt; none where either does not tell it for all of them."""
    for whose, side in (("it", 0), ("the reference", 1)):
        if any(name not in pair[side] for pair in pairs):
            notes.add(f"{whose} does not tell its {name}")
            return []
    return [(ours[name], theirs[name]) for ours, theirs in pairs]


def _over_prompts(pairs: list[tuple[Array, Array]], what: str, figures: Compare, notes: _Notes) -> Compared | None:
    found = []
    for prompt, (ours, theirs) in enumerate(pairs, 1):
        try:
            found.append(figures(ours, theirs))
        except _NotComparableError as error:
            notes.add(f"{what} of prompt {prompt}: {error}")
        if find(ours, theirs) == "constant":
            notes.add(f"{what} of prompt {prompt}: one value throughout")
    return spread(found) if found and len(found) == len(pairs) else None


def _steps(pairs: Sequence[tuple[Arrays, Arrays]], notes: _Notes) -> tuple[Compared, ...]:
    """Figures after each step, up to the first that cannot be compared."""
    trajectories = _named(pairs, "steps", notes)
    for prompt, (ours, theirs) in enumerate(trajectories, 1):
        if len(ours) != len(theirs):
            notes.add(f"the trajectory of prompt {prompt} has {len(ours)} steps and the reference's {len(theirs)}")
            return ()
    found = []
    for step in range(min((len(ours) for ours, _ in trajectories), default=0)):
        now = [(ours[step], theirs[step]) for ours, theirs in trajectories]
        compared = _over_prompts(now, f"step {step + 1}", plain_figures, notes)
        if compared is None:
            break
        found.append(compared)
    return tuple(found)


def _component(name: str, reference: Path, candidate: Path | None, notes: _Notes) -> Compared | None:
    """Figures over the outputs that both tell."""
    if candidate is None:
        notes.add(f"it does not call its {name} alone")
        return None
    theirs, ours = read_arrays(reference), read_arrays(candidate)
    common = [output for output in theirs if output in ours]
    if not common:
        notes.add(f"its {name} gives {', '.join(ours) or 'nothing'}, not {', '.join(theirs)}")
        return None
    found = []
    for output in common:
        try:
            found.append(plain_figures(ours[output], theirs[output]))
        except _NotComparableError as error:
            notes.add(f"{output} of its {name}: {error}")
    return spread(found) if len(found) == len(common) else None
