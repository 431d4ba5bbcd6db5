"""How much slower one trial's pictures are than another's, and how sure that is.

Pictures that were disturbed by other processes are left out. What is left of a turn shares what the machine did then,
so that turns are what is compared: by the low end of their pictures, for other work only ever adds to a time, divided
by the low end of the yardsticks beside them, for a machine that is slower altogether is slower at these too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as students_t

from .conditions import MOST_OTHERS
from .results import PROMPT_TO_PNG, Contestant
from .statistics import LEVEL

QUANTILE = 0.25  # of a turn's pictures, and of its yardsticks
FEWEST_PICTURES = 2  # undisturbed, of a turn that counts; a turn may have had but one
FEWEST_TURNS = 3  # that count: below that nothing can be said
_OF_A_NORMAL = 1.4826  # standard deviations that are one median absolute deviation
_OF_A_MEDIAN = sqrt(np.pi / 2)  # its standard error, in standard errors of a mean

Times = NDArray[np.float64]


@dataclass(frozen=True)
class Slowdown:
    """A share: 0.1 is a tenth slower; and its 95 % interval, of the noise of both trials together."""

    share: float
    low: float
    high: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out that nothing changed."""
        return self.low > 0


def slowdown(before: Contestant, now: Contestant, pictures: tuple[int, int], relative: bool) -> Slowdown | None:
    """Compare the warm latency of whole pictures; None where too few of them were undisturbed.

    Args:
        before: the baseline.
        now: what is held against it.
        pictures: of each turn, in each of the two.
        relative: take times in units of the yardstick beside them.
    """
    a, b = (turns(one, count, relative) for one, count in zip((before, now), pictures, strict=True))
    if min(len(a), len(b)) < FEWEST_TURNS:
        return None
    change = float(np.median(np.log(b)) - np.median(np.log(a)))
    error = sqrt(_variance(a) + _variance(b))
    # few turns say little of their own spread; the smaller trial decides how little
    reach = float(students_t.ppf((1 + LEVEL) / 2, min(len(a), len(b)) - 1)) * error
    return Slowdown(exp(change) - 1, exp(change - reach) - 1, exp(change + reach) - 1)


def turns(contestant: Contestant, pictures: int, relative: bool) -> Times:
    """The low end of each turn that counts, in seconds or in yardsticks; at most (turns,)."""
    seconds = np.asarray(contestant.latency[PROMPT_TO_PNG].samples)
    yardstick = contestant.yardstick
    units = np.asarray(yardstick.samples) if relative and yardstick is not None else np.ones(len(seconds))
    quiet = np.asarray(contestant.others or (0.0,) * len(seconds)) <= MOST_OTHERS
    found = []
    for start in range(0, len(seconds), pictures):
        kept = quiet[start : start + pictures]
        if kept.sum() >= min(pictures, FEWEST_PICTURES):
            low_ends = (np.quantile(of[start : start + pictures][kept], QUANTILE) for of in (seconds, units))
            found.append(next(low_ends) / next(low_ends))
    return np.asarray(found, np.float64)


def _variance(low_ends: Times) -> float:
    """Of the median of their logarithms; an outlier among the turns has no say."""
    logs = np.log(low_ends)
    deviation = _OF_A_NORMAL * float(np.median(np.abs(logs - np.median(logs))))
    return (_OF_A_MEDIAN * deviation) ** 2 / len(logs)


def told(change: float) -> str:
    """0.1 -> "10.0% slower"."""
    return f"{abs(change):.1%} {'slower' if change > 0 else 'faster'}"
