"""Classifier-free guidance: how strongly, at which noise levels, and how its contrast is held."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.errors import InputError


@dataclass(frozen=True)
class Guidance:
    """Away from the negative prompt by `scale`, at sigmas in `interval`, with a share `rescale` of the contrast kept.

    Attributes:
        scale: of 2207.12598; 1 is none.
        interval: (sigma_lo, sigma_hi] of 2404.07724, in noise levels and not in steps, so that it means the same for
            every sampler and number of steps. None is everywhere.
        rescale: phi of 2305.08891, 0 to 1: diffusers' `guidance_rescale`.
    """

    scale: float
    interval: tuple[float, float] | None = None
    rescale: float = 0.0

    def acts_at(self, sigma: float) -> bool:
        """Whether a question at this noise level needs the negative prompt's row."""
        inside = self.interval is None or self.interval[0] < sigma <= self.interval[1]
        return inside and self.scale != 1.0

    def applied(self, negative: NDArray[np.float32], positive: NDArray[np.float32]) -> NDArray[np.float32]:
        """The guided prediction, of raw predictions (n, 4, h, w); rescaled as by diffusers' `rescale_noise_cfg`."""
        guided: NDArray[np.float32] = negative + np.float32(self.scale) * (positive - negative)
        if self.rescale == 0.0:
            return guided
        contrast = _spread(positive) / _spread(guided)
        gain: NDArray[np.float32] = np.float32(self.rescale) * contrast + np.float32(1.0 - self.rescale)
        return guided * gain


def _spread(prediction: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation of each image, (n, 1, 1, 1)."""
    return np.asarray(np.std(prediction, axis=(1, 2, 3), keepdims=True, ddof=1), np.float32)


def check_guidance(scale: Any, interval: Any, rescale: Any) -> None:
    """Check what a request asks for.

    Raises:
        InputError: names the argument, what it expects and what it got.
    """
    if not _is_number(scale) or scale < 0:
        raise InputError(f"guidance_scale is a finite number, 0 or more; got {scale!r}")
    if not _is_number(rescale) or not 0 <= rescale <= 1:
        raise InputError(f"guidance_rescale is a number from 0 to 1; got {rescale!r}")
    if interval is None:
        return
    low, high = interval if isinstance(interval, tuple | list) and len(interval) == 2 else (math.nan, math.nan)
    if not _is_number(low) or not (_is_number(high) or high == math.inf) or not 0 <= low < high:
        raise InputError(
            f"guidance_interval is two noise levels, sigma_lo below sigma_hi, such as (0.28, 5.42); got {interval!r}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
