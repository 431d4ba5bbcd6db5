"""Pseudo numerical methods for diffusion models."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

from ..noise import NoiseSource
from ..query import Latents, Query, Sampling
from ..schedule import Schedule

# Adams-Bashforth weights of the newest eps first, by how many there are.
_WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def pndm(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:  # noqa: ARG001 - one signature for all
    """PLMS, the linear multistep form of PNDM (2202.09778); diffusers' PNDMScheduler with skip_prk_steps.

    Having no history, the first step asks twice: it goes ahead by Euler, looks from there, and goes again from
    its start with the mean of both. That is steps + 1 questions; with one step there is nowhere ahead to look, and one.
    """
    sigmas, timesteps = schedule.sigmas, schedule.timesteps
    history: deque[Latents] = deque(maxlen=4)  # eps, newest first
    for step, ((sigma, sigma_next), timestep) in enumerate(zip(pairwise(sigmas), timesteps, strict=True)):
        denoised = yield Query(x, sigma, timestep, step)
        history.appendleft((x - denoised) / sigma)
        if step == 0 and schedule.steps > 1:
            ahead = x + history[0] * (sigma_next - sigma)
            denoised = yield Query(ahead, sigma_next, timesteps[1], step)
            eps_ahead: Latents = (ahead - denoised) / sigma_next
            x = x + (history[0] + eps_ahead) * (0.5 * (sigma_next - sigma))
        else:
            x = x + _extrapolate(history) * (sigma_next - sigma)
    return x


def _extrapolate(history: deque[Latents]) -> Latents:
    newest, *older = _WEIGHTS[len(history) - 1]
    eps = history[0] * newest
    for weight, past in zip(older, list(history)[1:], strict=True):
        eps += past * weight
    return eps
