"""A latent seen without a decoder: near the picture that it becomes, and never an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentrt import Pipeline
from latentrt.engines.manifest import Preview
from latentrt.runtime.preview import preview

PROMPTS = ("a green triangle on a white background", "a large white cross on a black background", "a yellow star")
FITTED = Preview(weights=((0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5), (0, 0, 0)), bias=(0, 0, 1), rms_error=0.0)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32) / 255


@pytest.fixture(scope="module")
def drawn(demo_bundle: Path) -> list[tuple[Preview, list[np.ndarray], Image.Image]]:
    """Of each prompt: the bundle's map, what each step saw, and the picture."""
    with Pipeline.open(demo_bundle) as pipe:
        fitted = pipe.bundle.manifest.preview
        assert fitted is not None
        streams = [pipe.stream(prompt, num_inference_steps=8, sampler="dpmpp_2m") for prompt in PROMPTS]
        return [(fitted, [step.denoised[0] for step in one], one.result().images[0]) for one in streams]


def error(seen: np.ndarray, fitted: Preview, picture: Image.Image) -> float:
    small = picture.resize((16, 16), Image.Resampling.BOX)
    return float(np.sqrt(np.mean((pixels(preview(seen, fitted, (16, 16))) - pixels(small)) ** 2)))


def test_the_last_preview_shows_the_picture(drawn) -> None:
    """0.08 to 0.25 for scenes that the map was not fitted to; pictures of different prompts are about 0.5 apart."""
    for fitted, seen, picture in drawn:
        own = error(seen[-1], fitted, picture)
        assert own < 0.3
        assert own < min(error(seen[-1], fitted, other) for _, _, other in drawn if other is not picture)


def test_previews_come_nearer_step_by_step(drawn) -> None:
    for fitted, seen, picture in drawn:
        assert error(seen[-1], fitted, picture) < error(seen[0], fitted, picture)


def test_colours_are_the_map_cut_to_what_pixels_can_hold() -> None:
    latent = np.zeros((4, 2, 2), np.float32)
    latent[0, 0, 0], latent[1, 0, 1] = 9.0, -1.0
    shown = np.asarray(preview(latent, FITTED, (2, 2)))
    assert shown.shape == (2, 2, 3)
    assert shown[0, 0].tolist() == [255, 128, 255]
    assert shown[0, 1].tolist() == [128, 64, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_still_shown(value: float) -> None:
    image = preview(np.full((4, 8, 12), value, np.float32), FITTED, (96, 64))
    assert image.size == (96, 64)
    assert image.mode == "RGB"
