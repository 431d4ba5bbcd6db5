"""DPM-Solver++ in multistep form: one question a step."""

from __future__ import annotations

from math import expm1, log, sqrt

from ..noise import NoiseSource
from ..query import Latents, Query, Sampling
from ..schedule import Leg, Schedule

# In variance-exploding space alpha is 1 and lambda = -log sigma, so that exp(-h) = sigma_next / sigma.


def dpmpp_2m(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:  # noqa: ARG001 - one signature for all
    """DPM-Solver++(2M), algorithm 2 of 2211.01095; diffusers' DPMSolverMultistepScheduler with order 2, midpoint.

    First order where there is no history, and in the step to sigma 0, whose h is infinite.
    """
    previous, h_last = None, 0.0
    for leg in schedule.legs():
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        decay, h = leg.sigma_next / leg.sigma, log_step(leg)
        x = x * decay + extrapolated(denoised, previous, h, h_last) * (1.0 - decay)
        previous, h_last = denoised, h
    return x


def dpmpp_2m_sde(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:
    """SDE-DPM-Solver++(2M) (2211.01095, appendix); DPMSolverMultistepScheduler with "sde-dpmsolver++", midpoint.

    It draws once a step, after the answer; the last draw has no weight, as in diffusers.
    """
    previous, h_last = None, 0.0
    for leg in schedule.legs():
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        decay, h = (leg.sigma_next / leg.sigma) ** 2, log_step(leg)  # exp(-2 h): the SDE forgets twice as fast
        x = x * decay + extrapolated(denoised, previous, h, h_last) * (1.0 - decay)
        x = x + noise.normal(x.shape) * (leg.sigma_next * sqrt(1.0 - decay))
        previous, h_last = denoised, h
    return x


def dpmpp_3m_sde(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:
    """DPM-Solver++(3M) SDE: k-diffusion's sample_dpmpp_3m_sde, which named it.

    DPMSolverMultistepScheduler with "sde-dpmsolver++", order 3 and "heun" differs in one term: the weight of the second
    difference has -1/2 there where the series asks for +1/2, so that it does not vanish as steps get small; and under
    15 steps it takes the last but one at second order. It draws once a step, after the answer; the last draw has no
    weight.
    """
    history: list[tuple[Latents, float]] = []  # (answer, h of the step it was given for), newest first
    for leg in schedule.legs():
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        decay, h = (leg.sigma_next / leg.sigma) ** 2, log_step(leg)
        x = x * decay + denoised * (1.0 - decay)
        if h > 0.0:  # else the step ends at sigma 0, on the answer itself
            x = x + _higher_order(denoised, history, h)
            history = [(denoised, h), *history[:1]]
        x = x + noise.normal(x.shape) * (leg.sigma_next * sqrt(1.0 - decay))
    return x


def _higher_order(denoised: Latents, history: list[tuple[Latents, float]], h: float) -> Latents | float:
    """What the differences of two or three answers add to the first-order step."""
    if not history:
        return 0.0
    phi_2 = expm1(-2 * h) / (2 * h) + 1.0
    (previous, h_1), *older = history
    slope: Latents = (denoised - previous) * (h / h_1)
    if not older:
        return slope * phi_2
    (before, h_2) = older[0]
    bend: Latents = slope - (previous - before) * (h / h_2)
    phi_3 = phi_2 / (2 * h) - 0.5
    first = slope + bend * (h_1 / (h_1 + h_2))
    return first * phi_2 - bend * (phi_3 * h / (h_1 + h_2))


def extrapolated(denoised: Latents, previous: Latents | None, h: float, h_last: float) -> Latents:
    """The clean latent half a step ahead: along the line through the last two answers."""
    # Linspace spacing of 1000 steps rounds two timesteps to one: a step with h = 0, which teaches nothing.
    if previous is None or h_last == 0.0:
        return denoised
    return denoised + (denoised - previous) * (h / (2 * h_last))


def log_step(leg: Leg) -> float:
    """The step in lambda, -log sigma; 0 for the step to sigma 0, where it is infinite and nothing is extrapolated."""
    return log(leg.sigma / leg.sigma_next) if leg.sigma_next > 0.0 else 0.0
