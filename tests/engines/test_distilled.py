"""The guidance scale as a distilled UNet is told it, against diffusers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import LatentConsistencyModelPipeline

from latentrt.engines.distilled import guidance_embedding


@pytest.mark.parametrize("width", [256, 32, 5])
def test_the_embedding_is_that_of_diffusers(width: int) -> None:
    scales = np.array([1.0, 1.5, 3.0, 7.5, 8.0, 14.0], np.float32)
    expected = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.from_numpy(scales) - 1, width)
    found = guidance_embedding(scales, width)
    assert (found.dtype, found.shape) == (np.float32, (6, width))
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-3)  # one float32 rounding of an angle of 13,000
    np.testing.assert_array_equal(found[0, : width // 2], 0)  # scale 1 is no guidance
