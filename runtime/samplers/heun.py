"""Heun's method on the probability-flow ODE."""

from __future__ import annotations

from ..noise import NoiseSource
from ..query import Latents, Query, Sampling
from ..schedule import Schedule


def heun(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:  # noqa: ARG001 - one signature for all
    """Algorithm 1 of Karras et al. (2206.00364); diffusers' HeunDiscreteScheduler.

    A step asks again at its end and goes with the mean slope; the step to sigma 0 is Euler's, and asks once.
    """
    timesteps = (*schedule.timesteps[1:], None)
    for leg, timestep_next in zip(schedule.legs(), timesteps, strict=True):
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        slope: Latents = (x - denoised) / leg.sigma
        ahead = x + slope * (leg.sigma_next - leg.sigma)
        if leg.sigma_next == 0.0:
            return ahead
        timestep = schedule.timestep_at(leg.sigma_next) if timestep_next is None else timestep_next
        denoised = yield Query(ahead, leg.sigma_next, timestep, leg.step)
        slope_ahead: Latents = (ahead - denoised) / leg.sigma_next
        x = x + (slope + slope_ahead) * (0.5 * (leg.sigma_next - leg.sigma))
    return x
