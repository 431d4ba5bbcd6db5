"""Guidance against diffusers' own functions, and the arguments that it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from latentrt.engines.errors import InputError
from latentrt.runtime.guidance import Guidance, check_guidance


@pytest.mark.parametrize("rescale", [0.0, 0.3, 0.7, 1.0])
def test_rescale_is_that_of_diffusers(rescale: float) -> None:
    rng = np.random.default_rng(1)
    negative = rng.standard_normal((3, 4, 16, 24)).astype(np.float32)
    positive = negative + rng.standard_normal((3, 4, 16, 24)).astype(np.float32) * np.float32(0.3)
    guided = torch.from_numpy(negative + np.float32(7.5) * (positive - negative))
    expected = rescale_noise_cfg(guided, torch.from_numpy(positive), guidance_rescale=rescale).numpy()
    found = Guidance(7.5, rescale=rescale).applied(negative, positive)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    if rescale == 1.0:  # the contrast is the prompt's own, image by image
        np.testing.assert_allclose(found.std((1, 2, 3)), positive.std((1, 2, 3)), rtol=1e-5)


def test_the_interval_is_open_below_and_closed_above() -> None:
    guidance = Guidance(2.0, interval=(0.28, 5.42))
    assert [guidance.acts_at(sigma) for sigma in (0.1, 0.28, 0.29, 5.42, 5.43)] == [False, False, True, True, False]
    assert Guidance(2.0).acts_at(1e-9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((7.5, (5.0, 0.3), 0.0), r"guidance_interval is two noise levels, sigma_lo below sigma_hi.*got \(5.0, 0.3\)"),
        ((7.5, (0.3,), 0.0), "guidance_interval"),
        ((7.5, 0.3, 0.0), "guidance_interval"),
        ((7.5, (-1.0, 2.0), 0.0), "guidance_interval"),
        ((7.5, (math.nan, 2.0), 0.0), "guidance_interval"),
        ((7.5, ("a", 2.0), 0.0), "guidance_interval"),
        ((7.5, None, 1.5), "guidance_rescale is a number from 0 to 1; got 1.5"),
        ((7.5, None, math.nan), "guidance_rescale"),
        ((True, None, 0.0), "guidance_scale"),
    ],
)
def test_what_guidance_refuses(arguments: tuple[object, object, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_guidance(*arguments)


def test_an_interval_may_have_no_upper_end() -> None:
    check_guidance(7.5, (0.3, math.inf), 0.7)
