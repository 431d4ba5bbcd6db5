"""Which noise levels a picture passes through, and what the model is told at each. Tables are float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class NoiseTable:
    """The noise levels the model was trained with: "scaled linear" betas. The defaults are SD 1.5's."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000
    steps_offset: int = 1  # added by leading spacing alone

    @cached_property
    def sigmas(self) -> Array:
        """sqrt((1 - alpha_bar) / alpha_bar), ascending, shape (num_train_timesteps,): 0.0292 to 14.61 for SD 1.5."""
        betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_train_timesteps) ** 2
        # diffusers holds alpha and alpha_bar in float32, which moves the first sigma by 1.3e-5 of itself: so do we.
        alpha = (1.0 - betas).astype(np.float32)
        alpha_bar = np.cumprod(alpha, dtype=np.float64).astype(np.float32).astype(np.float64)
        return np.asarray(np.sqrt((1.0 - alpha_bar) / alpha_bar), np.float64)

    def sigma_at(self, timesteps: Array) -> Array:
        """Noise levels at timesteps that may be fractional: linear in sigma."""
        return np.interp(timesteps, np.arange(self.num_train_timesteps), self.sigmas)

    def timestep_at(self, sigmas: Array) -> Array:
        """Fractional timesteps of noise levels: linear in log sigma, held at both ends of the table."""
        return np.interp(np.log(sigmas), np.log(self.sigmas), np.arange(self.num_train_timesteps))


@dataclass(frozen=True)
class Leg:
    """One step of a path: from `sigma`, where the model is told `timestep`, to `sigma_next`."""

    step: int  # 0 .. steps - 1
    sigma: float
    sigma_next: float
    timestep: float


@dataclass(frozen=True)
class Schedule:
    """The path of one picture, in variance-exploding space.

    The caller applies the scales: a sampler starts from `unit noise * init_scale`, and what it returns is the latent
    after `* final_scale`. Plain Python floats, so that float32 latents stay float32.
    """

    sigmas: tuple[float, ...]  # (steps + 1,), descending; the last is where the path ends
    timesteps: tuple[float, ...]  # (steps,); each is exactly representable in float32
    init_scale: float
    final_scale: float
    table: NoiseTable = field(default_factory=NoiseTable)

    @property
    def steps(self) -> int:
        """How many steps the path has."""
        return len(self.timesteps)

    def legs(self) -> Iterator[Leg]:
        """The steps in order."""
        for step, ((sigma, sigma_next), timestep) in enumerate(zip(pairwise(self.sigmas), self.timesteps, strict=True)):
            yield Leg(step, sigma, sigma_next, timestep)

    def timestep_at(self, sigma: float) -> float:
        """What the model is told at a noise level between those of the path: fractional, rounded to float32."""
        return float(np.float32(self.table.timestep_at(np.array(sigma))))
