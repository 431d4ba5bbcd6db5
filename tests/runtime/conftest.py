"""A closed-form model, and drivers that put one question-and-answer loop and diffusers' own loop around it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from latentrt.runtime.query import Query, Sampling
from latentrt.runtime.schedule import NoiseTable

SHAPE = (2, 4, 8, 8)
EpsModel = Callable[[np.ndarray, float], np.ndarray]


@pytest.fixture(scope="session")
def sd15_scheduler_config() -> dict[str, Any]:
    """scheduler_config.json of SD 1.5, a PNDMScheduler's."""
    return {
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }


@pytest.fixture(scope="session")
def eps_model() -> EpsModel:
    """The exact eps of pixels drawn from N(+m, s^2) or N(-m, s^2), as eps(x / sqrt(sigma^2 + 1), timestep) in float32.

    It takes sigma from the timestep, so a wrong timestep, a wrong scale and a wrong sigma each give another picture.
    """
    table, s2 = NoiseTable().sigmas, 0.5**2
    m = np.random.default_rng(7).uniform(0.3, 1.0, SHAPE[1:]).astype(np.float32)

    def eps(x_in: np.ndarray, timestep: float) -> np.ndarray:
        sigma = float(np.interp(timestep, np.arange(len(table)), table))
        x = x_in * math.hypot(1.0, sigma)
        mean = (s2 * x + sigma**2 * m * np.tanh(m * x / (s2 + sigma**2))) / (s2 + sigma**2)  # E[clean | x]
        return (x - mean) / sigma

    return eps


@pytest.fixture(scope="session")
def start_noise() -> np.ndarray:
    """Unit noise, float32."""
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


class TorchNoise:
    """torch's own stream as a noise source; `shapes` records what was drawn."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.shapes: list[tuple[int, ...]] = []

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        self.shapes.append(shape)
        return torch.randn(shape, generator=self.generator).numpy()


@pytest.fixture
def torch_noise() -> Callable[[int], TorchNoise]:
    """Makes a noise source from a seed."""
    return TorchNoise


@pytest.fixture(scope="session")
def drive() -> Callable[[Sampling, EpsModel], tuple[np.ndarray, list[Query]]]:
    """Answers a sampler's questions with an eps model until it returns; gives its result and the questions."""

    def drive(sampling: Sampling, model: EpsModel) -> tuple[np.ndarray, list[Query]]:
        queries: list[Query] = []
        try:
            query = next(sampling)
            while True:
                queries.append(query)
                eps = model(query.x / math.hypot(1.0, query.sigma), query.timestep)
                query = sampling.send(query.x - eps * query.sigma)
        except StopIteration as stop:
            return stop.value, queries

    return drive


@pytest.fixture(scope="session")
def drive_diffusers() -> Callable[..., np.ndarray]:
    """The denoising loop of diffusers' StableDiffusionPipeline around the same eps model."""

    def drive(scheduler: Any, steps: int, noise: np.ndarray, model: EpsModel, **step_options: Any) -> np.ndarray:
        scheduler.set_timesteps(steps)
        x = torch.from_numpy(noise) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            x_in = scheduler.scale_model_input(x, t)
            eps = torch.from_numpy(model(x_in.numpy(), float(t)))
            x = scheduler.step(eps, t, x, **step_options).prev_sample
        return x.numpy()

    return drive
