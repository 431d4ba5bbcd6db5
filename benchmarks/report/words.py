"""Numbers as a reader wants them: three digits that count, and one unit for a table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..trial.results import Metric

NONE = "–"  # where there is no figure


@dataclass(frozen=True)
class Unit:
    """Seconds in the unit that suits all of a table."""

    name: str
    factor: float

    def number(self, seconds: float | None) -> str:
        """So many seconds, in this unit."""
        return NONE if seconds is None else digits(seconds * self.factor)


def time_unit(seconds: Iterable[float]) -> Unit:
    """Milliseconds where all are below two seconds, or else seconds."""
    return Unit("ms", 1e3) if max(seconds, default=0.0) < 2 else Unit("s", 1.0)


def digits(value: float, count: int = 3) -> str:
    """A number with so many digits that count, and never an exponent: 1234, 12.3, 0.0123."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, count - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{places}f}"


def size(count: int | None) -> str:
    """Bytes in MB or GB of powers of ten, as disks are sold."""
    if count is None:
        return NONE
    return f"{digits(count / 1e9)} GB" if count >= 1e9 else f"{digits(count / 1e6)} MB"


def metric(name: Metric, value: float) -> str:
    """One figure of accuracy, in the form that its metric is read in."""
    if name == "PSNR, dB":
        return f"{value:.1f}"
    if name == "SSIM":
        return f"{value:.4f}"
    if name == "cosine":
        return f"{value:.6f}"
    return f"{value:.1e}" if 0 < value < 0.01 else digits(value, 2)


def share(value: float) -> str:
    """A share as a percentage."""
    return f"{value:.1%}"


def counted(number: int, what: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
