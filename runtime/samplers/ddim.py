"""Denoising diffusion implicit models."""

from __future__ import annotations

from ..noise import NoiseSource
from ..query import Latents, Sampling
from ..schedule import Schedule
from .euler import euler


def ddim(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:
    """DDIM (2010.02502) with eta 0; diffusers' DDIMScheduler.

    In variance-exploding space this is Euler's method (its equations 13 and 14): only the schedule differs.
    """
    return euler(x, schedule, noise)
