"""Errors as tests state them."""

from __future__ import annotations

import numpy as np

from latentrt.engines.metrics import difference
from latentrt.engines.threshold import unit_scale


def unit_scale_error(answer: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference on the scale where the expected deviation is at most 1; NaN where there is none."""
    return difference(answer, expected).max_abs / unit_scale(expected)
