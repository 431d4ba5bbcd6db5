"""How much slower one trial's pictures are than another's, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .results import PROMPT_TO_PNG, Contestant
from .statistics import RESAMPLES, interval

QUANTILE = 0.25  # of a turn's pictures: others' work only ever adds to a time
_SEED = 20_250_102

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


def slowdown(before: Contestant, now: Contestant, pictures: tuple[int, int], relative: bool) -> Slowdown:
    """Compare the warm latency of whole pictures.

    Args:
        before: the baseline.
        now: what is held against it.
        pictures: of each turn, in each of the two.
        relative: take times in units of the yardstick beside them.
    """
    a, b = (_by_turn(one, count, relative) for one, count in zip((before, now), pictures, strict=True))
    shares = _resampled(b, seed=_SEED) / _resampled(a, seed=_SEED + 1) - 1
    low, high = interval(shares)
    return Slowdown(float(_estimate(b) / _estimate(a) - 1), low, high)


def _by_turn(contestant: Contestant, pictures: int, relative: bool) -> Times:
    """(turns, pictures) seconds, or yardsticks; a turn that was cut off is left out, if it is not the only one."""
    times: Times = np.asarray(contestant.latency[PROMPT_TO_PNG].samples)
    if relative and contestant.yardstick is not None:
        times = times / np.asarray(contestant.yardstick.samples)
    turns = len(times) // pictures
    return times[: turns * pictures].reshape(turns, pictures) if turns else times[None]


def _estimate(times: Times) -> np.float64:
    """The middle turn's low quantile."""
    return np.float64(np.median(np.quantile(times, QUANTILE, axis=1)))


def _resampled(times: Times, seed: int) -> Times:
    """(RESAMPLES,) estimates: turns are drawn again, for pictures of one turn share what the machine did then."""
    per_turn = np.quantile(times, QUANTILE, axis=1)
    picks = np.random.default_rng(seed).integers(0, len(per_turn), (RESAMPLES, len(per_turn)))
    return np.asarray(np.median(per_turn[picks], axis=1))
