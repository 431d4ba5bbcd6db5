"""Draw a bundle's recorded trajectories again, with the whole runtime, and compare every latent on the way."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.key import EngineKey
from latentrt.engines.manifest import MAX_TOKENS, UNET, Precision
from latentrt.engines.threshold import Threshold, latents_threshold, lowest, picture_threshold
from latentrt.engines.trajectory import Trajectory, load_trajectories
from latentrt.engines.verification import Check, judge

from .noise import TorchCpuNoise
from .pipeline import Pipeline, PromptWarning
from .request import Request, plan

NOISE_ERROR = Threshold(
    metric="max_abs", value=3e-6, origin="PyTorch's own builds differ by 1.8e-6 from one instruction set to another"
)
PICTURE_RANGE = 2.0  # of values in [-1, 1]


@dataclass(frozen=True, eq=False)
class Replayed:
    """One trajectory: what was compared, and the key of the UNet's engine; or why it was not drawn."""

    checks: list[Check]
    unet: EngineKey | None = None
    skipped: str | None = None


def replay(
    pipeline: Pipeline, path: str, report: Callable[[str], None], precision: str | None = None
) -> list[Replayed]:
    """Draw each trajectory in the bundle's file `path`: tokens, noise, sampler, denoiser, engines, default decoder.

    One whose size an engine was not built for is skipped. `precision` is what the answers are held to; None is that
    of the UNet's engine.

    Raises:
        BundleError: the record does not fit the bundle.
        EngineError: an engine failed.
    """
    bundle = pipeline.bundle
    found = []
    for trajectory in load_trajectories(bundle, path):
        request = _request(trajectory, bundle.manifest.model.vae_scale_factor)
        planned = plan(request, bundle.manifest)
        if reason := pipeline.engines.unheld(planned, MAX_TOKENS):
            found.append(Replayed([], skipped=f"trajectory {trajectory.facts.name} was not drawn: {reason}"))
            continue
        report(f"replaying the trajectory {trajectory.facts.name}")
        key = pipeline.engines.key(UNET, planned, MAX_TOKENS)
        used = lowest(bundle.component(UNET).precision, precision or key.precision)
        found.append(Replayed(_replay(pipeline, trajectory, request, used), unet=key))
    return found


def _replay(pipeline: Pipeline, trajectory: Trajectory, request: Request, precision: Precision) -> list[Check]:
    facts, part = trajectory.facts, f"trajectory {trajectory.facts.name}"

    def check(case: str, tensor: str, answer: NDArray[Any], expected: NDArray[Any], limit: Threshold | None) -> Check:
        return judge(part, case, tensor, "PyTorch", answer, expected, limit)

    noise = TorchCpuNoise(facts.seed).normal(trajectory.noise.shape)
    checks = [check(f"seed {facts.seed}", "noise", noise, trajectory.noise, NOISE_ERROR)]
    floor = facts.floor.get(precision)
    found = _latents(pipeline, request)
    for step, (answer, expected) in enumerate(zip(found, trajectory.latents, strict=True)):
        recorded = None if floor is None else floor.latents[step]
        limit = latents_threshold(precision, recorded, guided=facts.guidance_scale > 1)
        checks.append(check(f"step {step + 1} of {facts.steps}", "latents", answer, expected, limit))
    limit = picture_threshold(precision, None if floor is None else floor.image)
    checks.append(_picture(pipeline, trajectory, found[-1], part, limit))
    return checks


def _picture(
    pipeline: Pipeline, trajectory: Trajectory, latents: NDArray[np.float32], part: str, limit: Threshold | None
) -> Check:
    """The decoded picture as it is shown, between black and white; NaN and infinity stay what they are."""
    drawn = pipeline.decode(latents)
    shown = np.where(np.isfinite(drawn), np.clip(drawn, -1, 1), drawn)
    expected = np.clip(trajectory.image, -1, 1)
    return judge(part, "picture", "image", "PyTorch", shown, expected, limit, data_range=PICTURE_RANGE)


def _request(trajectory: Trajectory, factor: int) -> Request:
    facts = trajectory.facts
    height, width = (side * factor for side in trajectory.noise.shape[2:])
    return Request(
        prompt=facts.prompt,
        negative_prompt=facts.negative_prompt,
        num_inference_steps=facts.steps,
        guidance_scale=facts.guidance_scale,
        seed=facts.seed,
        sampler=facts.sampler,
        width=width,
        height=height,
    )


def _latents(pipeline: Pipeline, request: Request) -> list[NDArray[np.float32]]:
    """The latents after each step, as the sampler asks about them next; the last are what it returns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        job = pipeline.start(request).job
    found: list[NDArray[np.float32]] = []
    while not job.done:
        asked = job.question.query
        if asked.step > len(found):
            found.append(asked.x)
        pipeline.step()
    if job.error is not None:
        raise job.error
    assert job.latents is not None  # nobody cancels it
    return [*found, job.latents]
