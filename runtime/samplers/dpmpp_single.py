"""DPM-Solver++ in single-step form: two questions a step, the second at its geometric middle."""

from __future__ import annotations

from math import sqrt

from ..noise import NoiseSource
from ..query import Latents, Query, Sampling
from ..schedule import Schedule
from .euler import ancestral


def dpmpp_2s_ancestral(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:
    """DPM-Solver++(2S) to below the next noise level, then noise up to it: k-diffusion's sample_dpmpp_2s_ancestral.

    diffusers has no class for it. It draws after the second answer; the step to sigma 0 asks once and draws nothing.
    """
    for leg in schedule.legs():
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        if leg.sigma_next == 0.0:
            return denoised
        sigma_down, sigma_up = ancestral(leg.sigma, leg.sigma_next)
        sigma_mid = sqrt(leg.sigma * sigma_down)
        middle = _towards(denoised, x, sigma_mid / leg.sigma)
        denoised = yield Query(middle, sigma_mid, schedule.timestep_at(sigma_mid), leg.step)
        x = _towards(denoised, x, sigma_down / leg.sigma) + noise.normal(x.shape) * sigma_up
    return x


def dpmpp_sde(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:
    """DPM-Solver++ (SDE): k-diffusion's sample_dpmpp_sde; diffusers' DPMSolverSDEScheduler.

    Both halves of a step see one Brownian path: it draws the path's increment to the middle after the first answer and
    the increment on to the end after the second. diffusers takes that path from torchsde's generator, so a seed gives
    other noise there; on the same path the latents agree. The step to sigma 0 asks once and draws nothing.
    """
    for leg in schedule.legs():
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        if leg.sigma_next == 0.0:
            return denoised
        sigma_mid = sqrt(leg.sigma * leg.sigma_next)
        to_middle = noise.normal(x.shape)
        sigma_down, sigma_up = ancestral(leg.sigma, sigma_mid)
        middle = _towards(denoised, x, sigma_down / leg.sigma) + to_middle * sigma_up
        denoised = yield Query(middle, sigma_mid, schedule.timestep_at(sigma_mid), leg.step)
        first = (leg.sigma - sigma_mid) / (leg.sigma - leg.sigma_next)  # share of the path's variance
        to_end: Latents = to_middle * sqrt(first) + noise.normal(x.shape) * sqrt(1.0 - first)
        sigma_down, sigma_up = ancestral(leg.sigma, leg.sigma_next)
        x = _towards(denoised, x, sigma_down / leg.sigma) + to_end * sigma_up
    return x


def _towards(denoised: Latents, x: Latents, decay: float) -> Latents:
    """The first-order step of DPM-Solver++ to `decay` times the noise level of x."""
    return x * decay + denoised * (1.0 - decay)
