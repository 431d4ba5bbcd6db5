"""Pseudo numerical methods for diffusion models."""

from __future__ import annotations

from collections import deque

from ..noise import NoiseSource
from ..query import Latents, Query, Sampling
from ..schedule import Leg, Schedule

# Adams-Bashforth weights of the newest eps first, by how many there are.
_WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
RUNGE_KUTTA_STEPS = 3  # until there are the four eps that the multistep form wants

History = deque[Latents]  # eps, newest first


def pndm(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:  # noqa: ARG001 - one signature for all
    """PNDM (2202.09778) as SD 1.5 configures it: diffusers' PNDMScheduler with skip_prk_steps, CompVis' PLMS.

    Having no history, the first step asks twice: it goes ahead by Euler, looks from there, and goes again from
    its start with the mean of both. That is steps + 1 questions; with one step there is nowhere ahead to look, and one.
    """
    history = _no_history()
    for leg in schedule.legs():
        eps = yield from _ask(x, leg.sigma, leg.timestep, leg.step)
        history.appendleft(eps)
        reach = leg.sigma_next - leg.sigma
        if leg.step == 0 and schedule.steps > 1:
            eps_ahead = yield from _ask(x + eps * reach, leg.sigma_next, schedule.timesteps[1], leg.step)
            x = x + (eps + eps_ahead) * (0.5 * reach)
        else:
            x = x + _extrapolated(history) * reach
    return x


def plms(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:  # noqa: ARG001 - one signature for all
    """PNDM's linear multistep form (equation 9 of 2202.09778) from the first step on: one question a step.

    Its order grows with the history, from Euler's first step to the fourth. diffusers has no class for it.
    """
    history = _no_history()
    for leg in schedule.legs():
        history.appendleft((yield from _ask(x, leg.sigma, leg.timestep, leg.step)))
        x = x + _extrapolated(history) * (leg.sigma_next - leg.sigma)
    return x


def pndm_prk(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:  # noqa: ARG001 - one signature for all
    """PNDM as published (2202.09778, algorithm 2): Runge-Kutta warm-up; PNDMScheduler without skip_prk_steps.

    The first three steps ask four times each; a step with no timestep after it does not. diffusers wants four steps.
    """
    history = _no_history()
    timesteps = (*schedule.timesteps[1:], None)
    for leg, timestep_next in zip(schedule.legs(), timesteps, strict=True):
        eps = yield from _ask(x, leg.sigma, leg.timestep, leg.step)
        history.appendleft(eps)
        if leg.step < RUNGE_KUTTA_STEPS and timestep_next is not None:
            eps = yield from _runge_kutta(x, eps, schedule, leg, timestep_next)
        else:
            eps = _extrapolated(history)
        x = x + eps * (leg.sigma_next - leg.sigma)
    return x


def _runge_kutta(x: Latents, eps: Latents, schedule: Schedule, leg: Leg, timestep_next: float) -> Sampling:
    """The eps of a step by the classical fourth-order method, its middle in timesteps and not in sigma."""
    timestep = timestep_next + (leg.timestep - timestep_next) // 2
    sigma = float(schedule.table.sigmas[int(timestep)])
    eps_2 = yield from _ask(x + eps * (sigma - leg.sigma), sigma, timestep, leg.step)
    eps_3 = yield from _ask(x + eps_2 * (sigma - leg.sigma), sigma, timestep, leg.step)
    ahead = x + eps_3 * (leg.sigma_next - leg.sigma)
    eps_4 = yield from _ask(ahead, leg.sigma_next, timestep_next, leg.step)
    return (eps + (eps_2 + eps_3) * 2.0 + eps_4) / 6.0


def _ask(x: Latents, sigma: float, timestep: float, step: int) -> Sampling:
    """The noise in x, of unit variance."""
    denoised = yield Query(x, sigma, timestep, step)
    return (x - denoised) / sigma


def _no_history() -> History:
    return deque(maxlen=4)


def _extrapolated(history: History) -> Latents:
    newest, *older = _WEIGHTS[len(history) - 1]
    eps = history[0] * newest
    for weight, past in zip(older, list(history)[1:], strict=True):
        eps = eps + past * weight
    return eps
