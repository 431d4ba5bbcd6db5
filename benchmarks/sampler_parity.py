"""The final latent of every sampler and spacing beside its reference's, on the same noise and a closed-form model.

`python -m latentrt.benchmarks.sampler_parity` writes `results/sampler-parity.json`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.runtime.noise import NoiseSource
from latentrt.runtime.samplers import SAMPLERS, get_sampler, prepare, sampler_with_eta
from latentrt.runtime.schedule import Schedule

from .machine import write_result
from .sampler_reference import (
    REFERENCES,
    SHAPE,
    TABLE,
    GivenNoise,
    TorchNoise,
    brownian_draws,
    closed_form_model,
    drive,
    drive_diffusers,
    k_dpmpp_2s_ancestral,
    paper_plms,
)

STEPS = (1, 2, 4, 10, 25, 50)
SEED = 3
FORMULAS = {"dpmpp_2s_ancestral": "k-diffusion's formula", "plms": "equations 9 and 11 of 2202.09778"}
FEWEST = {"pndm_prk": 4}  # steps: below that the reference fails
PROTOCOL = f"""Relative L2 difference of the final latent from the reference's, {SHAPE[0]} latents of 4x8x8, the largest
over {", ".join(map(str, STEPS))} steps; data from a mixture of two Gaussians, whose denoiser is known in closed form
and takes sigma from the timestep; stochastic samplers with the same noise injected. Reference: diffusers' scheduler
class from SD 1.5's config, with the changes that docs/samplers.md names; for dpmpp_2s_ancestral k-diffusion's formula,
for plms the paper's."""


def main() -> None:
    """Measure every sampler with every spacing it takes; write the result."""
    warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="Should have t", category=UserWarning)
    figures = {name: facts(name) | {"difference": all_differences(name)} for name in SAMPLERS}
    print(json.dumps(figures, indent=2))
    write_result("sampler-parity", figures, " ".join(PROTOCOL.split()))


def facts(name: str) -> dict[str, Any]:
    """What it is compared with, and what ten steps ask and draw."""
    reference = REFERENCES.get(name)
    source, schedule = TorchNoise(SEED), prepare(name, TABLE, 10)
    _, queries = drive(get_sampler(name).sample(start_noise(), schedule, source), closed_form_model())
    changes = {} if reference is None else reference.changes
    return {
        "reference": FORMULAS[name] if reference is None else reference.scheduler_name,
        "changes": ", ".join(f"{key}={value}" for key, value in changes.items()),
        "questions of 10 steps": len(queries),
        "draws of 10 steps": len(source.shapes),
    }


def all_differences(name: str) -> dict[str, dict[str, float]]:
    """The differences by spacing."""
    return {spacing: differences(name, spacing) for spacing in SAMPLERS[name].spacings}


def differences(name: str, spacing: str) -> dict[str, float]:
    """The relative difference by number of steps."""
    start = start_noise()
    found = {}
    for steps in STEPS:
        if takes(name, steps):
            ours, theirs = both(name, spacing, steps, start)
            found[str(steps)] = float(f"{relative(ours, theirs):.2g}")
    return found


def takes(name: str, steps: int) -> bool:
    """Whether the reference can be run for so few steps."""
    return steps >= FEWEST.get(name, 1)


def start_noise() -> NDArray[np.float32]:
    """Unit noise, float32."""
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def relative(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """L2 norm of the difference, by that of theirs."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def both(
    name: str,
    spacing: str | None,
    steps: int,
    start: NDArray[np.float32],
    eta: float | None = None,
    **path: Sequence[float],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Our final latent and the reference's, from the same start and the same noise.

    `path` is `timesteps` or `sigmas` in place of a spacing and steps, where the reference takes them.
    """
    schedule = prepare(name, TABLE, steps, spacing, **path)
    ours_source, theirs_source = TorchNoise(SEED), TorchNoise(SEED)
    model = closed_form_model()
    if name == "dpmpp_2s_ancestral":
        theirs = k_dpmpp_2s_ancestral(schedule, start, model, theirs_source)
    elif name == "plms":
        theirs = paper_plms(schedule, start, model)
    else:
        reference = REFERENCES[name]
        scheduler = reference.build(spacing)
        scheduler.set_timesteps(None if path else steps, **path)
        options: dict[str, Any] = {} if eta is None else {"eta": eta}
        if reference.takes_generator:
            options["generator"] = theirs_source.generator
        theirs = drive_diffusers(scheduler, None, start, model, reference.mends_gaps, **options)
        if name == "dpmpp_sde":
            return run(name, schedule, start, GivenNoise(brownian_draws(scheduler))), theirs
    ours = run(name, schedule, start, ours_source, eta)
    np.testing.assert_array_equal(ours_source.normal((16,)), theirs_source.normal((16,)))  # at the same place
    return ours, theirs


def run(
    name: str, schedule: Schedule, start: NDArray[np.float32], source: NoiseSource, eta: float | None = None
) -> NDArray[Any]:
    """Our final latent."""
    sampling = sampler_with_eta(name, eta)(start * np.float32(schedule.init_scale), schedule, source)
    result, _ = drive(sampling, closed_form_model())
    assert result.dtype == np.float32
    return result * np.float32(schedule.final_scale)


if __name__ == "__main__":
    main()
