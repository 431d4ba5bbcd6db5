"""From samples to what a reader is told: percentiles, and how sure the median is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .results import Timing

RESAMPLES = 2000
LEVEL = 0.95  # of intervals
_SEED = 20_250_101  # of the resampling: the same samples give the same interval


def timing(samples: Sequence[float]) -> Timing:
    """The figures of one thing's samples, of which there is at least one."""
    values = np.asarray(samples, np.float64)
    p50, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99)))
    low, high = median_interval(values)
    return Timing(samples=tuple(float(value) for value in values), p50=p50, p90=p90, p99=p99, low=low, high=high)


def median_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The median's 95 % interval, by the percentile bootstrap; of a single sample, the sample."""
    return interval(np.median(resampled(values), axis=1))


def resampled(values: NDArray[np.float64], resamples: int = RESAMPLES, seed: int = _SEED) -> NDArray[np.float64]:
    """Samples (n,) drawn again with replacement: (resamples, n)."""
    picks = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    return np.asarray(values[picks])


def interval(estimates: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """The range that holds so large a share of the estimates, as much left out below as above."""
    low, high = np.quantile(estimates, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def spread(values: Sequence[float]) -> float:
    """How far the middle half of the samples reaches, as a share of their median."""
    lower, middle, upper = np.percentile(np.asarray(values, np.float64), (25, 50, 75))
    return float((upper - lower) / middle) if middle > 0 else 0.0
