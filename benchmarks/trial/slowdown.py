"""How much slower one trial's pictures are than another's, and how sure that is.

Turns are what is compared: the mean logarithm of a turn's pictures, and that of the yardsticks beside them. A machine
that is slower altogether is slower at both, so what the yardsticks explain is taken out. How far pictures follow them
differs with what slows a machine down, and is found in the two trials themselves (analysis of covariance). Pictures
that other processes disturbed are left out; what others took beside those that are left, more in one trial than in the
other, is taken out as well. Where too few are left, the processor time of all of them is compared instead, which others
hardly lengthen.
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

FEWEST_PICTURES = 2  # undisturbed, of a turn that counts; a turn may have had but one
FEWEST_TURNS = 3  # that count: below that nothing can be said
EXPECTED, OFF = 1.0, 0.25  # how far pictures follow the yardsticks before the turns tell more, and how sure that is
# how much longer a picture takes for each core that others have: all of it where every thread waits for the one that
# was held up, less where the others take its work, nothing where they only use what is idle. Within a trial it cannot
# be found: the system counts others in hundredths of a second
HELD_UP, UNSURE = 0.5, 0.3

Logs = NDArray[np.float64]


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


@dataclass(frozen=True)
class Turns:
    """Those of one trial that count: mean logarithms (turns,) of their pictures' seconds, and of the yardsticks'.

    `others` is cores' worth of time that others took beside those pictures; 0 where processor time is compared.
    """

    pictures: Logs
    yardsticks: Logs
    others: Logs


def slowdown(before: Contestant, now: Contestant, pictures: tuple[int, int], relative: bool) -> Slowdown | None:
    """Compare the warm pictures of two trials; None where neither the clock nor processor time can tell.

    Args:
        before: the baseline.
        now: what is held against it.
        pictures: of each turn, in each of the two.
        relative: take out what the yardsticks explain, which are the same work in both.
    """
    on_gpu = now.memory is not None and now.memory.gpu is not None  # whose work is none of the processor's
    for by_processor in (False,) if on_gpu else (False, True):
        a, b = (turns(one, count, by_processor) for one, count in zip((before, now), pictures, strict=True))
        if min(len(a.pictures), len(b.pictures)) >= FEWEST_TURNS:
            return _compared(a, b, relative, by_processor)
    return None


def turns(contestant: Contestant, pictures: int, by_processor: bool = False) -> Turns:
    """The turns of one contestant; by the clock without the pictures that others disturbed."""
    seconds = np.log(contestant.processor if by_processor else contestant.latency[PROMPT_TO_PNG].samples)
    yardstick = contestant.yardstick
    beside = np.zeros(len(seconds)) if yardstick is None else np.log(yardstick.samples)
    others = np.zeros(len(seconds)) if by_processor or not contestant.others else np.asarray(contestant.others)
    found = []
    for start in range(0, len(seconds), pictures):
        turn = slice(start, start + pictures)
        kept = others[turn] <= MOST_OTHERS
        if kept.sum() >= min(pictures, FEWEST_PICTURES):
            found.append([one[turn][kept].mean() for one in (seconds, beside, others)])
    return Turns(*np.array(found, np.float64).reshape(-1, 3).T)


def _compared(a: Turns, b: Turns, relative: bool, by_processor: bool) -> Slowdown:
    slope, unsure = _followed(a, b) if relative else (0.0, 0.0)
    left = [one.pictures - slope * one.yardsticks - HELD_UP * one.others for one in (a, b)]
    change = float(left[1].mean() - left[0].mean())
    variances = [float(one.var(ddof=1)) / len(one) for one in left]
    # Welch's degrees of freedom: few turns say little of their own spread
    shares = sum(variance**2 / (len(one) - 1) for variance, one in zip(variances, left, strict=True))
    reach = float(students_t.ppf((1 + LEVEL) / 2, sum(variances) ** 2 / shares)) if shares > 0 else 0.0
    drift = unsure * float(b.yardsticks.mean() - a.yardsticks.mean())
    held_up = UNSURE * float(b.others.mean() - a.others.mean())
    reach *= sqrt(sum(variances) + drift**2 + held_up**2)
    return Slowdown(exp(change) - 1, exp(change - reach) - 1, exp(change + reach) - 1, by_processor)


def _followed(a: Turns, b: Turns) -> tuple[float, float]:
    """How far pictures follow the yardsticks, 0 not at all to 1 wholly, and the standard error of that.

    Within each trial, by least squares; what was expected counts as much as its certainty.
    """
    x, y = (
        np.concatenate([one - one.mean() for one in both])
        for both in ((a.yardsticks, b.yardsticks), (a.pictures, b.pictures))
    )
    squares, prior = float(x @ x), 1 / OFF**2
    slope = float(x @ y) / squares if squares > 0 else EXPECTED
    errors = y - slope * x
    noise = float(errors @ errors) / (len(y) - 3)  # two means and a slope were fitted
    told = squares / noise if noise > 0 else 0.0
    return min(max((slope * told + EXPECTED * prior) / (told + prior), 0.0), 1.0), 1 / sqrt(told + prior)


def told(change: float) -> str:
    """0.1 -> "10.0% slower"."""
    return f"{abs(change):.1%} {'slower' if change > 0 else 'faster'}"
