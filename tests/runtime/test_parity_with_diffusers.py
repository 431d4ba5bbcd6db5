"""The demo model through latentrt and through diffusers' own pipeline and schedulers: the same latents and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from latentrt import Pipeline
from latentrt.export.source import SourceModel

SCHEDULERS = {
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "ddim": diffusers.DDIMScheduler,
    "pndm": diffusers.PNDMScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
}
PROMPT, NEGATIVE = "a large red circle on a blue background", "green"

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


@pytest.fixture(scope="module")
def pipeline(demo_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.open(demo_bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def reference(demo_model: SourceModel, sd15_scheduler_config: dict[str, Any]) -> diffusers.StableDiffusionPipeline:
    made = diffusers.StableDiffusionPipeline(
        vae=demo_model.vaes["kl-f8"].load(),
        text_encoder=demo_model.text_encoder.load(),
        tokenizer=demo_model.tokenizer,
        unet=demo_model.unet.load(),
        scheduler=diffusers.DDIMScheduler.from_config(sd15_scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    made.sd15_config = sd15_scheduler_config
    return made


def draw(reference: diffusers.StableDiffusionPipeline, sampler: str, karras: bool, output: str, **options: object):
    karras_config = {"use_karras_sigmas": True} if karras else {}
    reference.scheduler = SCHEDULERS[sampler].from_config(reference.sd15_config | karras_config)
    generator = torch.Generator().manual_seed(options.pop("seed"))  # type: ignore[call-overload]
    with torch.no_grad():
        return reference(PROMPT, generator=generator, output_type=output, height=128, **options).images


@pytest.mark.parametrize(
    ("sampler", "karras"),
    [*((name, False) for name in SCHEDULERS), ("euler", True), ("dpmpp_2m", True)],
)
def test_final_latents_are_those_of_diffusers(
    pipeline: Pipeline, reference: diffusers.StableDiffusionPipeline, sampler: str, karras: bool
) -> None:
    options = {"num_inference_steps": 12, "guidance_scale": 7.5, "negative_prompt": NEGATIVE, "seed": 3, "width": 128}
    expected = draw(reference, sampler, karras, "latent", **options).numpy()
    found = pipeline.generate(PROMPT, sampler=sampler, karras=karras, height=128, **options).latents
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


def test_guidance_off_and_another_shape(pipeline: Pipeline, reference: diffusers.StableDiffusionPipeline) -> None:
    options = {"num_inference_steps": 7, "guidance_scale": 1.0, "seed": 11, "width": 96}
    expected = draw(reference, "ddim", False, "latent", **options).numpy()
    found = pipeline.generate(PROMPT, sampler="ddim", height=128, **options).latents
    assert found.shape == (1, 4, 16, 12)
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


def test_pictures_of_one_stream_are_those_of_diffusers(
    pipeline: Pipeline, reference: diffusers.StableDiffusionPipeline
) -> None:
    options = {"num_inference_steps": 10, "guidance_scale": 5.0, "seed": 2**40 + 5, "num_images_per_prompt": 3}
    expected = draw(reference, "euler_ancestral", False, "pil", width=128, **options)
    found = pipeline.generate(PROMPT, sampler="euler_ancestral", decoder="kl-f8", **options).images
    for ours, theirs in zip(found, expected, strict=True):
        difference = np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16))
        assert difference.max() <= 1
