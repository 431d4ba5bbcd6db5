"""DPM-Solver++."""

from __future__ import annotations

from itertools import pairwise
from math import log

from ..noise import NoiseSource
from ..query import Latents, Query, Sampling
from ..schedule import Schedule


def dpmpp_2m(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:  # noqa: ARG001 - one signature for all
    """DPM-Solver++(2M), algorithm 2 of 2211.01095; diffusers' DPMSolverMultistepScheduler with order 2, midpoint.

    In variance-exploding space alpha is 1 and lambda = -log sigma. First order where there is no history, and in the
    step to sigma 0, whose h is infinite.
    """
    previous, h_last = None, 0.0
    path = zip(pairwise(schedule.sigmas), schedule.timesteps, strict=True)
    for step, ((sigma, sigma_next), timestep) in enumerate(path):
        denoised = yield Query(x, sigma, timestep, step)
        h = log(sigma / sigma_next) if sigma_next > 0 else 0.0  # lambda_next - lambda
        # Linspace spacing of 1000 steps rounds two timesteps to one: a step with h = 0, which teaches nothing.
        d = denoised if previous is None or h_last == 0 else denoised + (denoised - previous) * (h / (2 * h_last))
        x = x * (sigma_next / sigma) + d * (1.0 - sigma_next / sigma)
        previous, h_last = denoised, h
    return x
