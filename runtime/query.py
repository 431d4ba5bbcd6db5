"""What a sampler and the denoiser say to each other.

A sampler is a coroutine: it yields a `Query`, receives the clean latent, and returns the last latent. Everything about
the model (input scaling, eps or v prediction, guidance) lives in the denoiser that answers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .noise import NoiseSource
from .schedule import Schedule

Latents: TypeAlias = NDArray[np.float32]  # (n, 4, h, w)


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """The question "what is the clean latent, seen from `x` at `sigma`?".

    The answer is an array of x's shape and dtype. Neither side writes into an array once it has been handed over, so
    a question or an answer may be kept (for a preview, for a multistep method) without a copy.
    """

    x: Latents  # (n, 4, h, w) float32 in variance-exploding space: clean latent + sigma * unit noise
    sigma: float  # standard deviation of the noise in x
    timestep: float  # what the model is told; a float32 holds it exactly, and it may be fractional
    step: int  # 0 .. steps - 1; a sampler may ask several questions in one step


Sampling: TypeAlias = Generator[Query, Latents, Latents]


# A sampler starts from `unit noise * schedule.init_scale`; its caller multiplies the result by `schedule.final_scale`.
Sampler: TypeAlias = Callable[[Latents, Schedule, NoiseSource], Sampling]
