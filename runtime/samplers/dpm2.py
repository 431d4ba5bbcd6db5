"""DPM-Solver-2: the midpoint method in log sigma, and its ancestral form."""

from __future__ import annotations

from math import sqrt

from ..noise import NoiseSource
from ..query import Latents, Query, Sampling
from ..schedule import Schedule
from .euler import ancestral


def dpm2(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:  # noqa: ARG001 - one signature for all
    """DPM-Solver-2 (2206.00927, algorithm 1) as k-diffusion has it; diffusers' KDPM2DiscreteScheduler.

    A step asks again at the geometric mean of its ends and goes with that slope; the step to sigma 0 asks once.
    """
    for leg in schedule.legs():
        x = yield from _midpoint(x, schedule, leg.step, leg.sigma_next)
    return x


def dpm2_ancestral(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:
    """DPM-Solver-2 to below the next noise level, then noise up to it; diffusers' KDPM2AncestralDiscreteScheduler.

    It draws after the second answer, and not in the step to sigma 0.
    """
    for leg in schedule.legs():
        sigma_down, sigma_up = ancestral(leg.sigma, leg.sigma_next)
        x = yield from _midpoint(x, schedule, leg.step, sigma_down)
        if leg.sigma_next > 0.0:
            x = x + noise.normal(x.shape) * sigma_up
    return x


def _midpoint(x: Latents, schedule: Schedule, step: int, sigma_to: float) -> Sampling:
    sigma = schedule.sigmas[step]
    denoised = yield Query(x, sigma, schedule.timesteps[step], step)
    if sigma_to == 0.0:
        return denoised
    sigma_mid = sqrt(sigma * sigma_to)
    middle = x + (x - denoised) * ((sigma_mid - sigma) / sigma)
    denoised = yield Query(middle, sigma_mid, schedule.timestep_at(sigma_mid), step)
    return x + (middle - denoised) * ((sigma_to - sigma) / sigma_mid)
