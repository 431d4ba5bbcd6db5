"""Schedules that agree with the scheduler classes of diffusers 0.42, built from SD 1.5's config.

Those classes fall into three families, which differ in rounding, in where the path ends, and in the scale of the start
noise. Each `Family` builds a schedule from a spacing's name, from explicit timesteps or from explicit sigmas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import hypot

import numpy as np

from latentrt.engines.errors import InputError

from .schedule import Array, NoiseTable, Schedule
from .spacing import RAMPS, distilled_timesteps, spaced_timesteps


@dataclass(frozen=True)
class Family:
    """Three ways to a schedule. `from_timesteps` takes (steps,) timesteps, `from_sigmas` (steps + 1,), descending."""

    from_spacing: Callable[[NoiseTable, int, str], Schedule]
    from_timesteps: Callable[[NoiseTable, Array], Schedule]
    from_sigmas: Callable[[NoiseTable, Array], Schedule] | None = None  # None: the model is asked at timesteps alone
    whole_timesteps: bool = True


def k_diffusion_schedule(table: NoiseTable, steps: int, spacing: str, round_karras: bool = False) -> Schedule:
    """k-diffusion's family (diffusers' EulerDiscreteScheduler): fractional timesteps, ends at sigma 0.

    A ramp spans what linspace spacing spans. `round_karras` rounds what the model is told, as KDPM2DiscreteScheduler
    does with Karras sigmas alone.

    Raises:
        InputError: the spacing passes the last trained timestep.
    """
    if spacing not in RAMPS:
        # Only leading spacing counts the unit variance of the clean latent in, as diffusers' init_noise_sigma does.
        timesteps = _inside(table, spaced_timesteps(spacing, steps, table), steps, spacing)
        return _k_from_timesteps(table, timesteps, unit_variance=spacing == "leading")
    span = table.sigma_at(spaced_timesteps("linspace", steps, table))
    sigmas = RAMPS[spacing](float(span[0]), float(span[-1]), steps)
    timesteps = table.timestep_at(sigmas)
    if round_karras and spacing == "karras":
        timesteps = np.round(timesteps)
    return _k_schedule(table, np.append(sigmas, 0.0), timesteps)


def _k_from_timesteps(table: NoiseTable, timesteps: Array, unit_variance: bool = False) -> Schedule:
    told = _rounded_to_float32(timesteps)
    return _k_schedule(table, np.append(table.sigma_at(told), 0.0), told, unit_variance)


def _k_from_sigmas(table: NoiseTable, sigmas: Array) -> Schedule:
    return _k_schedule(table, sigmas, table.timestep_at(sigmas[:-1]))


def _k_schedule(table: NoiseTable, sigmas: Array, timesteps: Array, unit_variance: bool = False) -> Schedule:
    sigma_max = float(sigmas[0])
    init_scale = hypot(1.0, sigma_max) if unit_variance else sigma_max
    told = _rounded_to_float32(timesteps)
    return Schedule(tuple(sigmas.tolist()), tuple(told.tolist()), init_scale, 1.0, table)


def _rounded_to_float32(timesteps: Array) -> Array:
    return timesteps.astype(np.float32).astype(np.float64)  # what the model's float32 input can hold


def ddpm_schedule(table: NoiseTable, steps: int, spacing: str, to_zero: bool = False) -> Schedule:
    """DDPM's family (diffusers' DDIMScheduler, PNDMScheduler): whole timesteps, ends at the table's first sigma.

    With `to_zero` it ends at sigma 0 (DDPMScheduler, LCMScheduler). A step goes from one timestep to the next, as in
    diffusers with leading spacing; with the others diffusers' DDIM and PNDM step to
    `timestep - num_train_timesteps // steps` wherever the next one lies.

    Raises:
        InputError: the spacing passes the last trained timestep.
    """
    if spacing == "distilled":
        return _whole_from_timesteps(table, distilled_timesteps(steps, table), to_zero)
    timesteps = np.round(_inside(table, spaced_timesteps(spacing, steps, table), steps, spacing))
    return _whole_from_timesteps(table, timesteps, to_zero)


def _whole_from_timesteps(table: NoiseTable, timesteps: Array, to_zero: bool) -> Schedule:
    end = 0.0 if to_zero else float(table.sigmas[0])
    return _unit_variance_schedule(table, np.append(table.sigma_at(timesteps), end), timesteps)


def dpm_solver_schedule(table: NoiseTable, steps: int, spacing: str, to_zero: bool = True) -> Schedule:
    """DPM-Solver's family (diffusers' DPMSolverMultistepScheduler): whole timesteps, ends at sigma 0.

    It lays out one point more than it uses and drops the last (except with trailing spacing). A ramp spans the
    whole table; what the model is told is rounded with Karras sigmas and cut to a whole number with exponential ones.
    Without `to_zero` (DEISMultistepScheduler) it ends at the table's first sigma, or the ramp's last.

    Raises:
        InputError: the spacing passes the last trained timestep.
    """
    if spacing not in RAMPS:
        points = steps if spacing == "trailing" else steps + 1
        timesteps = _inside(table, spaced_timesteps(spacing, points, table)[:steps], steps, spacing)
        return _whole_from_timesteps(table, np.round(timesteps), to_zero)
    sigmas = RAMPS[spacing](float(table.sigmas[-1]), float(table.sigmas[0]), steps)
    timesteps = table.timestep_at(sigmas)
    # Cut, the first comes to 998 and not to 999: diffusers' float32 logarithm of sigma_max lies a last bit above it.
    timesteps = np.round(timesteps) if spacing == "karras" else np.maximum(np.ceil(timesteps) - 1.0, 0.0)
    end = 0.0 if to_zero else float(sigmas[-1])
    return _unit_variance_schedule(table, np.append(sigmas, end), timesteps)


def _dpm_from_sigmas(table: NoiseTable, sigmas: Array) -> Schedule:
    return _unit_variance_schedule(table, sigmas, _rounded_to_float32(table.timestep_at(sigmas[:-1])))


def _unit_variance_schedule(table: NoiseTable, sigmas: Array, timesteps: Array) -> Schedule:
    """Of a class that works in variance-preserving space: `final_scale` reads the latent there, at the last sigma."""
    first, last = float(sigmas[0]), float(sigmas[-1])
    return Schedule(tuple(sigmas.tolist()), tuple(timesteps.tolist()), hypot(1.0, first), 1.0 / hypot(1.0, last), table)


def _inside(table: NoiseTable, timesteps: Array, steps: int, spacing: str) -> Array:
    """The timesteps, if the model was trained on the first; 1000 steps with leading spacing and offset 1 pass it."""
    last = table.num_train_timesteps - 1
    if timesteps[0] > last:
        raise InputError(
            f"steps {steps}: {spacing} spacing with steps_offset {table.steps_offset} would start at timestep "
            f"{timesteps[0]:.0f}, and the last one trained is {last}: use at most {steps - 1} steps or another spacing"
        )
    return timesteps


K_DIFFUSION = Family(k_diffusion_schedule, _k_from_timesteps, _k_from_sigmas, whole_timesteps=False)
K_DPM2 = Family(partial(k_diffusion_schedule, round_karras=True), _k_from_timesteps, _k_from_sigmas, False)
DDPM = Family(ddpm_schedule, partial(_whole_from_timesteps, to_zero=False))
DDPM_TO_ZERO = Family(partial(ddpm_schedule, to_zero=True), partial(_whole_from_timesteps, to_zero=True))
DPM_SOLVER = Family(dpm_solver_schedule, partial(_whole_from_timesteps, to_zero=True), _dpm_from_sigmas)
DEIS = Family(
    partial(dpm_solver_schedule, to_zero=False), partial(_whole_from_timesteps, to_zero=False), _dpm_from_sigmas
)
