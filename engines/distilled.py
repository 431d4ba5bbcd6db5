"""UNets that guidance was distilled into (LCM): they are told the guidance scale, and cost one row."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .manifest import TIMESTEP_COND
from .tensor import TensorSpec


def guidance_width(inputs: Sequence[TensorSpec]) -> int | None:
    """How wide the UNet's guidance input is, 256 for LCM; None for a UNet that has none."""
    return next((int(spec.shape[1]) for spec in inputs if spec.name == TIMESTEP_COND), None)


def guidance_embedding(scales: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Guidance scales (rows,) -> (rows, width) float32.

    As diffusers' `LatentConsistencyModelPipeline.get_guidance_scale_embedding` of scale - 1, in float32 like it: at
    scale 14 one rounding of the angle is 1e-3 of a radian.
    """
    half = width // 2
    step = np.float32(math.log(10000.0)) / np.float32(half - 1)
    frequencies = np.exp(np.arange(half, dtype=np.float32) * -step)
    angles = ((scales - np.float32(1)) * np.float32(1000))[:, None] * frequencies  # (rows, half)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return np.pad(waves, ((0, 0), (0, width % 2)))
