"""The demo model through latentrt and through diffusers' own pipeline and schedulers: the same latents and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from latentrt import Pipeline
from latentrt.benchmarks.sampler_reference import (
    REFERENCES,
    TABLE,
    GivenNoise,
    TorchNoise,
    brownian_draws,
    k_dpmpp_2s_ancestral,
    paper_plms,
)
from latentrt.export.source import SourceModel
from latentrt.runtime.samplers import prepare

PROMPT, NEGATIVE = "a large red circle on a blue background", "green"

# diffusers 0.42 itself hands tensors to numpy in ways numpy 2 deprecates; torchsde rounds past an end of its path.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept:DeprecationWarning",
    "ignore:__array_wrap__ must accept:DeprecationWarning",
    "ignore:Should have t:UserWarning",
)


@pytest.fixture(scope="module")
def pipeline(demo_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.open(demo_bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def reference(demo_model: SourceModel) -> diffusers.StableDiffusionPipeline:
    made = diffusers.StableDiffusionPipeline(
        vae=demo_model.vaes["kl-f8"].load(),
        text_encoder=demo_model.text_encoder.load(),
        tokenizer=demo_model.tokenizer,
        unet=demo_model.unet.load(),
        scheduler=REFERENCES["ddim"].build(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def draw(
    reference: diffusers.StableDiffusionPipeline, sampler: str, spacing: str | None, output: str, **options: object
):
    reference.scheduler = REFERENCES[sampler].build(spacing)
    generator = torch.Generator().manual_seed(options.pop("seed"))  # type: ignore[call-overload]
    with torch.no_grad():
        return reference(PROMPT, generator=generator, output_type=output, height=128, **options).images


OPTIONS = {"num_inference_steps": 4, "guidance_scale": 7.5, "negative_prompt": NEGATIVE, "seed": 3, "width": 128}


@pytest.mark.parametrize(
    ("sampler", "spacing"),
    [*((name, None) for name in REFERENCES), ("euler", "karras"), ("dpmpp_2m", "karras"), ("unipc", "exponential")],
)
def test_final_latents_are_those_of_diffusers(
    pipeline: Pipeline,
    reference: diffusers.StableDiffusionPipeline,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    spacing: str | None,
) -> None:
    eta = {"eta": 0.3} if sampler == "tcd" else {}  # diffusers' pipeline passes its own default, 0
    expected = draw(reference, sampler, spacing, "latent", **OPTIONS, **eta).numpy()
    if sampler == "dpmpp_sde":  # its noise is torchsde's path; the start noise is the seed's
        draws = [TorchNoise(3).normal(expected.shape), *brownian_draws(reference.scheduler)]
        monkeypatch.setattr("latentrt.runtime.stages.open_noise", lambda request, images: GivenNoise(iter(draws)))
    found = pipeline.generate(PROMPT, sampler=sampler, spacing=spacing, height=128, **OPTIONS, **eta).latents
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("sampler", ["dpmpp_2s_ancestral", "plms"])
def test_final_latents_are_those_of_the_formulas(
    pipeline: Pipeline, reference: diffusers.StableDiffusionPipeline, sampler: str
) -> None:
    """The two that diffusers has no class for, around its UNet."""
    texts = torch.cat(reference.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE)[::-1])

    def eps(x: np.ndarray, timestep: float) -> np.ndarray:
        rows = torch.from_numpy(x.astype(np.float32)).repeat(2, 1, 1, 1)
        with torch.no_grad():
            negative, positive = reference.unet(rows, torch.tensor(timestep), texts).sample.chunk(2)
        return (negative + OPTIONS["guidance_scale"] * (positive - negative)).numpy()

    source, schedule = TorchNoise(3), prepare(sampler, TABLE, OPTIONS["num_inference_steps"])
    start = source.normal((1, 4, 16, 16))
    if sampler == "plms":
        expected = paper_plms(schedule, start, eps)
    else:
        expected = k_dpmpp_2s_ancestral(schedule, start, eps, source)
    found = pipeline.generate(PROMPT, sampler=sampler, height=128, **OPTIONS).latents
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


def test_rescaled_guidance_is_that_of_diffusers(
    pipeline: Pipeline, reference: diffusers.StableDiffusionPipeline
) -> None:
    expected = draw(reference, "ddim", None, "latent", guidance_rescale=0.7, **OPTIONS).numpy()
    found = pipeline.generate(PROMPT, sampler="ddim", height=128, guidance_rescale=0.7, **OPTIONS).latents
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


def test_guidance_off_and_another_shape(pipeline: Pipeline, reference: diffusers.StableDiffusionPipeline) -> None:
    options = {"num_inference_steps": 7, "guidance_scale": 1.0, "seed": 11, "width": 96}
    expected = draw(reference, "ddim", None, "latent", **options).numpy()
    found = pipeline.generate(PROMPT, sampler="ddim", height=128, **options).latents
    assert found.shape == (1, 4, 16, 12)
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


def test_pictures_of_one_stream_are_those_of_diffusers(
    pipeline: Pipeline, reference: diffusers.StableDiffusionPipeline
) -> None:
    options = {"num_inference_steps": 10, "guidance_scale": 5.0, "seed": 2**40 + 5, "num_images_per_prompt": 3}
    expected = draw(reference, "euler_ancestral", None, "pil", width=128, **options)
    found = pipeline.generate(PROMPT, sampler="euler_ancestral", decoder="kl-f8", **options).images
    for ours, theirs in zip(found, expected, strict=True):
        difference = np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16))
        assert difference.max() <= 1
