"""Samplers of consistency-distilled models: each answer is a picture already, and noise leads to the next question."""

from __future__ import annotations

from math import hypot, sqrt

import numpy as np

from ..noise import NoiseSource
from ..query import Latents, Query, Sampling
from ..schedule import Schedule

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0  # diffusers' timestep_scaling


def lcm(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:
    """Multistep latent consistency sampling (2310.04378, algorithm 3); diffusers' LCMScheduler.

    It draws after each answer but the last.
    """
    for leg in schedule.legs():
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        scaled = leg.timestep * TIMESTEP_SCALING
        spread = hypot(scaled, SIGMA_DATA)
        c_skip, c_out = (SIGMA_DATA / spread) ** 2, scaled / spread  # the boundary condition: at timestep 0, x itself
        x = denoised * c_out + x * (c_skip / hypot(1.0, leg.sigma))
        if leg.step < schedule.steps - 1:
            x = x + noise.normal(x.shape) * leg.sigma_next
    return x


def tcd(x: Latents, schedule: Schedule, noise: NoiseSource, eta: float = 0.3) -> Sampling:
    """Trajectory consistency distillation (2402.19159, algorithm 4, whose gamma is `eta`); diffusers' TCDScheduler.

    It goes down to timestep (1 - eta) times the next, and up to that by noise, drawn after each answer but the last;
    with eta 0 it draws nothing.
    """
    for leg, timestep_next in zip(schedule.legs(), (*schedule.timesteps[1:], 0.0), strict=True):
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        # diffusers rounds the product to float32, which may decide the floor
        timestep_down = int(np.floor(np.float32(1.0 - eta) * np.float32(timestep_next)))
        sigma_down = float(schedule.table.sigmas[timestep_down])
        x = denoised + (x - denoised) * (sigma_down / leg.sigma)
        if eta > 0.0 and leg.step < schedule.steps - 1:
            x = x + noise.normal(x.shape) * sqrt(leg.sigma_next**2 - sigma_down**2)
    return x
