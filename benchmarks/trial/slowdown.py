"""How much slower one trial's pictures are than another's, and how sure that is.

Turns are what is compared, for a turn's pictures share what the machine did then: by the low end of their pictures, as
other work only ever adds to a time, divided by the low end of the yardsticks beside them, as a machine that is slower
altogether is slower at these too. Pictures that other processes disturbed are left out. Where that leaves too few, the
processor time of all of them is compared instead, which others hardly lengthen.
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
    by_processor: bool = False  # and not by the clock

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out that nothing changed."""
        return self.low > 0


def slowdown(before: Contestant, now: Contestant, pictures: tuple[int, int], relative: bool) -> Slowdown | None:
    """Compare the warm pictures of two trials; None where neither the clock nor processor time can tell.

    Args:
        before: the baseline.
        now: what is held against it.
        pictures: of each turn, in each of the two.
        relative: take times in units of the yardstick beside them.
    """
    on_gpu = now.memory is not None and now.memory.gpu is not None  # whose work is none of the processor's
    for by_processor in (False,) if on_gpu else (False, True):
        a, b = (turns(one, count, relative, by_processor) for one, count in zip((before, now), pictures, strict=True))
        if min(len(a), len(b)) >= FEWEST_TURNS:
            return _compared(a, b, by_processor)
    return None


def _compared(a: Times, b: Times, by_processor: bool) -> Slowdown:
    change = float(np.median(np.log(b)) - np.median(np.log(a)))
    of_a, of_b = _variance(a), _variance(b)
    spread = of_a + of_b
    if spread == 0:  # not even a clock's last digit differed
        return Slowdown(exp(change) - 1, exp(change) - 1, exp(change) - 1, by_processor)
    # Welch's degrees of freedom: few turns say little of their own spread
    freedom = spread**2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
    reach = float(students_t.ppf((1 + LEVEL) / 2, freedom)) * sqrt(spread)
    return Slowdown(exp(change) - 1, exp(change - reach) - 1, exp(change + reach) - 1, by_processor)


def turns(contestant: Contestant, pictures: int, relative: bool, by_processor: bool = False) -> Times:
    """The low end of each turn that counts, in seconds or in yardsticks; at most (turns,)."""
    samples = contestant.processor if by_processor else contestant.latency[PROMPT_TO_PNG].samples
    seconds = np.asarray(samples)
    yardstick = contestant.yardstick
    units = np.asarray(yardstick.samples) if relative and yardstick is not None else np.ones(len(seconds))
    disturbed = np.asarray(contestant.others or (0.0,) * len(seconds)) > MOST_OTHERS
    found = []
    for start in range(0, len(seconds), pictures):
        turn = slice(start, start + pictures)
        kept = np.ones(len(seconds[turn]), bool) if by_processor else ~disturbed[turn]
        if kept.sum() >= min(pictures, FEWEST_PICTURES):
            seconds_low, units_low = (np.quantile(of[turn][kept], QUANTILE) for of in (seconds, units))
            found.append(seconds_low / units_low)
    return np.asarray(found, np.float64)


def _variance(low_ends: Times) -> float:
    """Of the median of their logarithms; an outlier among the turns has no say."""
    logs = np.log(low_ends)
    deviation = _OF_A_NORMAL * float(np.median(np.abs(logs - np.median(logs))))
    return (_OF_A_MEDIAN * deviation) ** 2 / len(logs)


def told(change: float) -> str:
    """0.1 -> "10.0% slower"."""
    return f"{abs(change):.1%} {'slower' if change > 0 else 'faster'}"
