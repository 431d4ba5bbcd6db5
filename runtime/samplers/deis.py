"""Diffusion exponential integrator sampler."""

from __future__ import annotations

from math import log

from ..noise import NoiseSource
from ..query import Latents, Query, Sampling
from ..schedule import Schedule

FIRST_ORDER_END_BELOW = 15  # steps; diffusers' lower_order_final


def deis(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:  # noqa: ARG001 - one signature for all
    """rhoAB-DEIS of order 2 (2204.13902) with eps linear in log sigma; diffusers' DEISMultistepScheduler, "logrho".

    First order where there is no history, and in the last step of fewer than 15.
    """
    previous: tuple[Latents, float] | None = None  # eps and its sigma
    for leg in schedule.legs():
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        eps: Latents = (x - denoised) / leg.sigma
        is_short_end = leg.step == schedule.steps - 1 and schedule.steps < FIRST_ORDER_END_BELOW
        reach = leg.sigma_next - leg.sigma
        if previous is None or is_short_end or previous[1] == leg.sigma:
            x = x + eps * reach
        else:
            eps_last, sigma_last = previous
            weight = _weight(leg.sigma_next, leg.sigma, sigma_last) - _weight(leg.sigma, leg.sigma, sigma_last)
            x = x + eps * weight + eps_last * (reach - weight)
        previous = eps, leg.sigma
    return x


def _weight(at: float, sigma: float, sigma_last: float) -> float:
    """The integral up to `at` of the line in log sigma that is 1 at `sigma` and 0 at `sigma_last`."""
    return at * (log(at) - log(sigma_last) - 1.0) / log(sigma / sigma_last) if at > 0.0 else 0.0
