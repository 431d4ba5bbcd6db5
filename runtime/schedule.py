"""Which noise levels a picture passes through, and what the model is told at each.

Tables are float64, and every schedule agrees with a scheduler class of diffusers 0.42 built from SD 1.5's config. Those
classes fall into three families, each a builder here: k-diffusion's (Euler), DDPM's (DDIM, PNDM) and DPM-Solver's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import hypot
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.errors import InputError

Array: TypeAlias = NDArray[np.float64]
Spacing: TypeAlias = Literal["leading", "linspace", "trailing"]
Ramp: TypeAlias = Callable[[float, float, int], Array]  # (sigma_max, sigma_min, steps) -> sigmas, descending


@dataclass(frozen=True)
class NoiseTable:
    """The noise levels the model was trained with: "scaled linear" betas. The defaults are SD 1.5's."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000
    steps_offset: int = 1  # added by leading spacing alone

    @cached_property
    def sigmas(self) -> Array:
        """sqrt((1 - alpha_bar) / alpha_bar), ascending, shape (num_train_timesteps,): 0.0292 to 14.61 for SD 1.5."""
        betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_train_timesteps) ** 2
        # diffusers holds alpha and alpha_bar in float32, which moves the first sigma by 1.3e-5 of itself: so do we.
        alpha = (1.0 - betas).astype(np.float32)
        alpha_bar = np.cumprod(alpha, dtype=np.float64).astype(np.float32).astype(np.float64)
        return np.asarray(np.sqrt((1.0 - alpha_bar) / alpha_bar), np.float64)

    def sigma_at(self, timesteps: Array) -> Array:
        """Noise levels at timesteps that may be fractional: linear in sigma."""
        return np.interp(timesteps, np.arange(self.num_train_timesteps), self.sigmas)

    def timestep_at(self, sigmas: Array) -> Array:
        """Fractional timesteps of noise levels: linear in log sigma, held at both ends of the table."""
        return np.interp(np.log(sigmas), np.log(self.sigmas), np.arange(self.num_train_timesteps))


@dataclass(frozen=True)
class Schedule:
    """The path of one picture, in variance-exploding space.

    The caller applies the scales: a sampler starts from `unit noise * init_scale`, and what it returns is the latent
    after `* final_scale`. Plain Python floats, so that float32 latents stay float32.
    """

    sigmas: tuple[float, ...]  # (steps + 1,), descending; the last is where the path ends
    timesteps: tuple[float, ...]  # (steps,); each is exactly representable in float32
    init_scale: float
    final_scale: float

    @property
    def steps(self) -> int:
        """How many steps the path has."""
        return len(self.timesteps)


def spaced_timesteps(spacing: Spacing, count: int, table: NoiseTable) -> Array:
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


def karras_ramp(sigma_max: float, sigma_min: float, steps: int) -> Array:
    """Noise levels from `sigma_max` to `sigma_min`, even in sigma^(1/7): equation 5 of Karras et al. (2206.00364)."""
    rho = 7.0
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.asarray((high + np.linspace(0.0, 1.0, steps) * (low - high)) ** rho, np.float64)


def k_diffusion_schedule(table: NoiseTable, steps: int, spacing: Spacing, ramp: Ramp | None = None) -> Schedule:
    """k-diffusion's family (diffusers' EulerDiscreteScheduler): fractional timesteps, ends at sigma 0."""
    timesteps = _rounded_to_float32(spaced_timesteps(spacing, steps, table))
    sigmas = table.sigma_at(timesteps)
    if ramp:
        sigmas = ramp(float(sigmas[0]), float(sigmas[-1]), steps)
        timesteps = _rounded_to_float32(table.timestep_at(sigmas))
    sigma_max = float(sigmas[0])
    # Only leading spacing counts the unit variance of the clean latent in, as diffusers' init_noise_sigma does.
    init_scale = hypot(1.0, sigma_max) if spacing == "leading" else sigma_max
    return Schedule((*sigmas.tolist(), 0.0), tuple(timesteps.tolist()), init_scale, final_scale=1.0)


def _rounded_to_float32(timesteps: Array) -> Array:
    return timesteps.astype(np.float32).astype(np.float64)  # what the model's float32 input can hold


def ddpm_schedule(table: NoiseTable, steps: int, spacing: Spacing) -> Schedule:
    """DDPM's family (diffusers' DDIMScheduler, PNDMScheduler): whole timesteps, ends at the table's first sigma.

    The clean latent is read from variance-preserving space at that last sigma, which is what `final_scale` does. A step
    goes from one timestep to the next, as in diffusers with leading spacing; with the others diffusers' DDIM steps
    to `timestep - num_train_timesteps // steps` wherever the next one lies.

    Raises:
        InputError: the spacing passes the last trained timestep (1000 steps with leading spacing and offset 1).
    """
    timesteps = np.round(spaced_timesteps(spacing, steps, table))
    last = table.num_train_timesteps - 1
    if timesteps[0] > last:
        raise InputError(
            f"steps {steps}: {spacing} spacing with steps_offset {table.steps_offset} would start at timestep "
            f"{timesteps[0]:.0f}, and the last one trained is {last}: use at most {steps - 1} steps or another sampler"
        )
    sigmas = (*table.sigma_at(timesteps).tolist(), float(table.sigmas[0]))
    return Schedule(sigmas, tuple(timesteps.tolist()), hypot(1.0, sigmas[0]), 1.0 / hypot(1.0, sigmas[-1]))


def dpm_solver_schedule(table: NoiseTable, steps: int, spacing: Spacing, ramp: Ramp | None = None) -> Schedule:
    """DPM-Solver's family (diffusers' DPMSolverMultistepScheduler): whole timesteps, ends at sigma 0.

    It lays out one point more than it uses and drops the last (except with trailing spacing). A ramp spans the
    whole table, and only what the model is told is rounded, not the sigma.
    """
    if ramp:
        sigmas = ramp(float(table.sigmas[-1]), float(table.sigmas[0]), steps)
        timesteps = np.round(table.timestep_at(sigmas))
    else:
        points = steps if spacing == "trailing" else steps + 1
        timesteps = np.round(spaced_timesteps(spacing, points, table))[:steps]
        sigmas = table.sigma_at(timesteps)
    return Schedule((*sigmas.tolist(), 0.0), tuple(timesteps.tolist()), hypot(1.0, float(sigmas[0])), final_scale=1.0)
