"""Denoising diffusion: the implicit models, and the probabilistic ones they generalise."""

from __future__ import annotations

from ..noise import NoiseSource
from ..query import Latents, Query, Sampling
from ..schedule import Schedule
from .euler import ancestral, euler


def ddim(x: Latents, schedule: Schedule, noise: NoiseSource, eta: float = 0.0) -> Sampling:
    """DDIM (2010.02502); diffusers' DDIMScheduler. `eta` from 0 (deterministic) to 1 (the noise of DDPM).

    In variance-exploding space it is Euler's method (its equations 13 and 14), ancestral in the degree of `eta`: only
    the schedule differs. With `eta` it draws once a step, after the answer.
    """
    if eta == 0.0:
        return (yield from euler(x, schedule, noise))
    for leg in schedule.legs():
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        sigma_down, sigma_up = ancestral(leg.sigma, leg.sigma_next, eta)
        x = denoised + (x - denoised) * (sigma_down / leg.sigma) + noise.normal(x.shape) * sigma_up
    return x


def ddpm(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:
    """Ancestral sampling with the posterior's variance (2006.11239, algorithm 2); diffusers' DDPMScheduler.

    In variance-exploding space the posterior is the ancestral step. It draws once a step, after the answer; a step from
    timestep 0 draws nothing, and the last draw from another one has no weight, as in diffusers.
    """
    for leg in schedule.legs():
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        sigma_down, sigma_up = ancestral(leg.sigma, leg.sigma_next)
        x = denoised + (x - denoised) * (sigma_down / leg.sigma)
        if leg.timestep > 0:
            x = x + noise.normal(x.shape) * sigma_up
    return x
