"""The unified predictor-corrector."""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1

from ..noise import NoiseSource
from ..query import Latents, Query, Sampling
from ..schedule import Schedule
from .dpmpp import extrapolated, log_step


@dataclass(frozen=True, eq=False)
class _Taken:
    """The step that was taken last, for its correction."""

    start: Latents
    denoised: Latents  # the answer at its start
    previous: Latents | None  # the answer one step earlier
    h: float
    h_last: float  # of the step before


def unipc(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:  # noqa: ARG001 - one signature for all
    """UniPC-2 with B(h) = e^h - 1 ("bh2") on data prediction (2302.04867); diffusers' UniPCMultistepScheduler.

    The predictor is DPM-Solver++(2M), of first order in the last step. The answer at the end of a step also corrects
    that step, so the correction costs no question.
    """
    taken: _Taken | None = None
    for leg in schedule.legs():
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        if taken is not None and taken.h > 0.0:
            x = _corrected(taken, denoised)
        previous, h_last = (None, 0.0) if taken is None else (taken.denoised, taken.h)
        taken = _Taken(x, denoised, previous, log_step(leg), h_last)
        is_last = leg.step == schedule.steps - 1
        decay = leg.sigma_next / leg.sigma
        x = x * decay + extrapolated(denoised, None if is_last else previous, taken.h, h_last) * (1.0 - decay)
    return x


def _corrected(taken: _Taken, at_end: Latents) -> Latents:
    """UniC (its algorithm 1): the step anew, with the answer at its end."""
    h, change = taken.h, at_end - taken.denoised
    gain = -expm1(-h)  # 1 - decay
    first_order: Latents = taken.start * (1.0 - gain) + taken.denoised * gain
    if taken.previous is None or taken.h_last == 0.0:
        return first_order + change * (0.5 * gain)
    phi_2 = gain / h - 1.0
    phi_3 = -phi_2 / h - 0.5
    weight = (phi_2 - 2.0 * phi_3) / (1.0 + taken.h_last / h)
    slope: Latents = (taken.denoised - taken.previous) * (h / taken.h_last)
    corrected: Latents = first_order - slope * weight - change * (phi_2 - weight)
    return corrected
