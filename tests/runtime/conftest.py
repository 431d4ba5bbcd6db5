"""A pipeline without arithmetic; a closed-form model, and drivers that put our loop and diffusers' own around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentrt import Pipeline
from latentrt.benchmarks import sampler_reference
from latentrt.benchmarks.sampler_parity import start_noise as unit_noise
from latentrt.benchmarks.sampler_reference import EpsModel, TorchNoise


@pytest.fixture
def pipe(demo_bundle: Path) -> Iterator[Pipeline]:
    """The demo model with the fake engines."""
    with Pipeline.open(demo_bundle, engine="fake") as opened:
        yield opened


@pytest.fixture(scope="session")
def sd15_scheduler_config() -> dict[str, Any]:
    """scheduler_config.json of SD 1.5, a PNDMScheduler's."""
    return dict(sampler_reference.SD15_CONFIG)


@pytest.fixture(scope="session")
def eps_model() -> EpsModel:
    """The exact eps of a mixture of two Gaussians."""
    return sampler_reference.closed_form_model()


@pytest.fixture(scope="session")
def start_noise() -> np.ndarray:
    """Unit noise, float32."""
    return unit_noise()


@pytest.fixture
def torch_noise() -> Callable[[int], TorchNoise]:
    """Makes a noise source from a seed."""
    return TorchNoise


@pytest.fixture(scope="session")
def drive() -> Callable[..., Any]:
    """Answers a sampler's questions with an eps model until it returns; gives its result and the questions."""
    return sampler_reference.drive
