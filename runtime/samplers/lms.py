"""The linear multistep method on the probability-flow ODE."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import prod, sqrt

from ..noise import NoiseSource
from ..query import Latents, Query, Sampling
from ..schedule import Schedule

ORDER = 4  # slopes that are remembered, as in diffusers


def lms(x: Latents, schedule: Schedule, noise: NoiseSource) -> Sampling:  # noqa: ARG001 - one signature for all
    """Adams-Bashforth of order 4 over uneven noise levels; k-diffusion's sample_lms, LMSDiscreteScheduler.

    The polynomial through the newest slopes is integrated over the step; with fewer slopes its degree is lower.
    """
    slopes: deque[Latents] = deque(maxlen=ORDER)  # newest first
    for leg in schedule.legs():
        denoised = yield Query(x, leg.sigma, leg.timestep, leg.step)
        slopes.appendleft((x - denoised) / leg.sigma)
        known = schedule.sigmas[leg.step - len(slopes) + 1 : leg.step + 1][::-1]
        for slope, weight in zip(slopes, adams_bashforth(known, leg.sigma, leg.sigma_next), strict=True):
            x = x + slope * weight
    return x


def adams_bashforth(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """The integral from `start` to `end` of each Lagrange polynomial through `nodes`, at most 4 of them.

    Gauss-Legendre with two points integrates their degree, 3, exactly.
    """
    middle, reach = (start + end) / 2, (end - start) / 2 / sqrt(3.0)
    return [
        (end - start) / 2 * sum(_lagrange(nodes, i, point) for point in (middle - reach, middle + reach))
        for i in range(len(nodes))
    ]


def _lagrange(nodes: Sequence[float], i: int, at: float) -> float:
    return prod((at - node) / (nodes[i] - node) for j, node in enumerate(nodes) if j != i)
