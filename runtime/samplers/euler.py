"""Euler's method on the probability-flow ODE, and its ancestral form."""

from __future__ import annotations

from math import sqrt

from ..noise import NoiseSource
from ..query import Latents, Query, Sampling
from ..schedule import Schedule


def euler(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:  # noqa: ARG001 - one signature for all
    """Algorithm 2 of Karras et al. (2206.00364) without churn; diffusers' EulerDiscreteScheduler."""
    for leg in schedule.legs():
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        x = x + (x - denoised) * ((leg.sigma_next - leg.sigma) / leg.sigma)
    return x


def euler_ancestral(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:
    """Euler's method to below the next noise level, then fresh noise up to it; EulerAncestralDiscreteScheduler.

    It draws once a step, after the answer. The last draw has no weight, and is made so that the stream ends where
    diffusers leaves its generator.
    """
    for leg in schedule.legs():
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        sigma_down, sigma_up = ancestral(leg.sigma, leg.sigma_next)
        x = x + (x - denoised) * ((sigma_down - leg.sigma) / leg.sigma) + noise.normal(x.shape) * sigma_up
    return x


def ancestral(sigma: float, sigma_next: float, eta: float = 1.0) -> tuple[float, float]:
    """(sigma_down, sigma_up): go down to the one, add noise of the other, and the noise level is `sigma_next`.

    With eta 1 sigma_up is that of the posterior of DDPM (2006.11239, equation 7); with eta 0 it is 0.
    """
    sigma_up = eta * sigma_next * sqrt(1.0 - (sigma_next / sigma) ** 2)
    if eta == 1.0:
        return sigma_next**2 / sigma, sigma_up  # the root below, without its cancellation
    return sqrt(sigma_next**2 - sigma_up**2), sigma_up
