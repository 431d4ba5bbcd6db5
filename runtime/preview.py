"""See a latent before it is decoded: one small matrix product in place of a network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentrt.engines.manifest import Preview


def preview(denoised: NDArray[np.float32], fitted: Preview, size: tuple[int, int]) -> Image.Image:
    """The latent (4, h, w) of one picture, as `Step.denoised` holds it, as an RGB image of `size` (width, height).

    It shows colours and shapes, not detail. What is no number is shown grey: the loop decides whether that is an error.
    """
    weights = np.asarray(fitted.weights, np.float32)  # (4, 3)
    colours = np.einsum("chw,cr->hwr", denoised, weights) + np.asarray(fitted.bias, np.float32)
    unit = np.clip(np.nan_to_num(colours, nan=0.0) * np.float32(0.5) + np.float32(0.5), 0, 1)
    pixels = (unit * np.float32(255)).round().astype(np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
