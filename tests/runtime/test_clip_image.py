"""Preprocessing, pixel for pixel what transformers' CLIP image processor makes of a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from latentrt.engines.manifest import SafetyFacts
from latentrt.runtime.clip_image import clip_pixels

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# width, height: as drawn, larger and smaller than 224, odd, long, one pixel beside the square, one pixel wide
SIZES = [
    (512, 512),
    (128, 128),
    (224, 224),
    (768, 512),
    (320, 1024),
    (225, 224),
    (224, 227),
    (64, 512),
    (333, 77),
    (1, 9),
]


def facts(shortest_edge: int = 224, image_size: int = 224) -> SafetyFacts:
    return SafetyFacts(
        concepts="concepts", shortest_edge=shortest_edge, image_size=image_size, image_mean=MEAN, image_std=STD
    )


def picture(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """Noise beside a hard edge and a smooth slope: what resizing could get wrong."""
    width, height = size
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3))
    pixels[:, width // 3 :] = np.linspace(0, 255, height)[:, None, None]
    pixels[height // 2 :, width // 2 :] = (255, 0, 128)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def in_pixels(normalised: np.ndarray) -> np.ndarray:
    """Undo the normalisation: (3, h, w) in units of 1/255."""
    return (normalised * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None]) * 255


@pytest.mark.parametrize("size", SIZES)
def test_equals_transformers_with_pillow(size: tuple[int, int]) -> None:
    expected = CLIPImageProcessorPil()(picture(size), return_tensors="np").pixel_values[0]
    found = clip_pixels(picture(size), facts())
    assert (found.dtype, found.shape) == (np.float32, (3, 224, 224))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # float32 beside float32, values up to 2.7


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_equals_transformers_for_other_modes(mode: str) -> None:
    expected = CLIPImageProcessorPil()(picture((300, 200), mode), return_tensors="np").pixel_values[0]
    np.testing.assert_allclose(clip_pixels(picture((300, 200), mode), facts()), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("edge", "crop"), [(336, 336), (256, 224), (100, 135), (101, 64)])
@pytest.mark.parametrize("size", [(512, 512), (120, 333), (333, 120)])
def test_equals_transformers_for_other_sizes_of_the_square(size: tuple[int, int], edge: int, crop: int) -> None:
    """With a square larger than the resized picture, transformers fills up with black."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size={"height": crop, "width": crop})
    expected = processor(picture(size), return_tensors="np").pixel_values[0]
    np.testing.assert_allclose(clip_pixels(picture(size), facts(edge, crop)), expected, rtol=0, atol=1e-6)


def test_the_processor_that_transformers_chooses_here_is_that_one(tmp_path) -> None:
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    chosen = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert type(chosen) is CLIPImageProcessorPil


@pytest.mark.parametrize("size", [(512, 512), (768, 512), (320, 1024), (128, 128)])
def test_is_within_two_of_255_of_the_fast_processor(size: tuple[int, int]) -> None:
    """What torchvision's resize does with 8-bit pictures, which is torch's antialiased bicubic; it is not installed.

    On a smooth picture. The two go over height and width in another order and round to 8 bits in between, so that
    transformers' own two processors differ by as much, and by more where noise is clipped.
    """
    width, height = size
    coarse = np.random.default_rng(5).integers(40, 216, (height // 16, width // 16, 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    scale = 224 / min(size)
    pixels = torch.from_numpy(np.array(smooth)).permute(2, 0, 1)[None]  # (1, 3, h, w) uint8
    resized = F.interpolate(pixels, (int(height * scale), int(width * scale)), mode="bicubic", antialias=True)[0]
    top, left = (resized.shape[1] - 224) // 2, (resized.shape[2] - 224) // 2
    expected = resized[:, top : top + 224, left : left + 224].numpy()
    found = in_pixels(clip_pixels(smooth, facts()))
    difference = np.abs(found - expected)
    assert difference.max() <= 2 + 1e-3  # 1e-3: float32 there and back
    assert difference.mean() < 0.1
