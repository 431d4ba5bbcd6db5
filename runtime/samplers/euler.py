"""Euler's method on the probability-flow ODE, and its ancestral form."""

from __future__ import annotations

from itertools import pairwise

from ..noise import NoiseSource
from ..query import Latents, Query, Sampling
from ..schedule import Schedule


def euler(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:  # noqa: ARG001 - one signature for all
    """Algorithm 2 of Karras et al. (2206.00364) without churn; diffusers' EulerDiscreteScheduler."""
    path = zip(pairwise(schedule.sigmas), schedule.timesteps, strict=True)
    for step, ((sigma, sigma_next), timestep) in enumerate(path):
        denoised = yield Query(x, sigma, timestep, step)
        x = x + (x - denoised) * ((sigma_next - sigma) / sigma)
    return x


def euler_ancestral(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:
    """Euler's method to below the next noise level, then fresh noise up to it; EulerAncestralDiscreteScheduler.

    It draws once a step, after the answer. The last draw has no weight, and is made so that the stream ends where
    diffusers leaves its generator.
    """
    path = zip(pairwise(schedule.sigmas), schedule.timesteps, strict=True)
    for step, ((sigma, sigma_next), timestep) in enumerate(path):
        denoised = yield Query(x, sigma, timestep, step)
        sigma_up = sigma_next * (1.0 - (sigma_next / sigma) ** 2) ** 0.5
        sigma_down = sigma_next**2 / sigma  # sqrt(sigma_next^2 - sigma_up^2)
        x = x + (x - denoised) * ((sigma_down - sigma) / sigma) + noise.normal(x.shape) * sigma_up
    return x
