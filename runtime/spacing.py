"""How a number of steps is spread over the model's noise levels: by timestep, or by a ramp of sigmas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from latentrt.engines.errors import InputError

from .schedule import Array, NoiseTable

Ramp: TypeAlias = Callable[[float, float, int], Array]  # (sigma_max, sigma_min, steps) -> sigmas, descending

DISTILLED_STEPS = 50  # of the grid that LCM and TCD are distilled on: original_inference_steps of diffusers' classes


def spaced_timesteps(spacing: str, count: int, table: NoiseTable) -> Array:
    """`count` training timesteps, descending, shape (count,), not yet rounded for linspace.

    Source: table 2 of "Common Diffusion Noise Schedules and Sample Steps are Flawed" (2305.08891), as diffusers has it.
    """
    train = table.num_train_timesteps
    if spacing == "linspace":
        return np.linspace(0.0, train - 1.0, count)[::-1]
    if spacing == "leading":
        return np.arange(count - 1, -1, -1, dtype=np.float64) * (train // count) + table.steps_offset
    # arange's own rounding decides some timesteps, and for some counts (61 is the first) it yields one point too many.
    return np.round(np.arange(train, 0, -train / count)[:count]) - 1.0


def distilled_timesteps(count: int, table: NoiseTable) -> Array:
    """`count` of the 50 timesteps 19, 39, ... 999 that a consistency model is distilled on, descending.

    Source: LCM (2310.04378) as diffusers' LCMScheduler and TCDScheduler choose them.

    Raises:
        InputError: more steps than there are.
    """
    if count > DISTILLED_STEPS:
        raise InputError(
            f"steps {count}: a consistency model is distilled on {DISTILLED_STEPS} timesteps; use at most "
            f"{DISTILLED_STEPS} steps, or name the timesteps"
        )
    grid = np.arange(DISTILLED_STEPS, 0, -1) * (table.num_train_timesteps // DISTILLED_STEPS) - 1.0
    chosen = np.floor(np.linspace(0, DISTILLED_STEPS, count, endpoint=False)).astype(np.int64)
    return np.asarray(grid[chosen], np.float64)


def karras_ramp(sigma_max: float, sigma_min: float, steps: int) -> Array:
    """Noise levels from `sigma_max` to `sigma_min`, even in sigma^(1/7): equation 5 of Karras et al. (2206.00364)."""
    rho = 7.0
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.asarray((high + np.linspace(0.0, 1.0, steps) * (low - high)) ** rho, np.float64)


def exponential_ramp(sigma_max: float, sigma_min: float, steps: int) -> Array:
    """Noise levels from `sigma_max` to `sigma_min`, even in log sigma: diffusers' `use_exponential_sigmas`."""
    return np.asarray(np.exp(np.linspace(log(sigma_max), log(sigma_min), steps)), np.float64)


RAMPS: Mapping[str, Ramp] = MappingProxyType({"karras": karras_ramp, "exponential": exponential_ramp})
