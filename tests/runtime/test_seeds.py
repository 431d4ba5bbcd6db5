"""Seeds of a request against diffusers' lists of generators and a torch transcription of the web UIs' slerp."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from latentrt import Request
from latentrt.engines.errors import InputError
from latentrt.runtime.cuda_noise import GPUS, TorchCudaNoise
from latentrt.runtime.noise import MAX_SEED, TorchCpuNoise
from latentrt.runtime.seeds import check_seeds, image_seeds, noise_facts, open_noise, slerp, start_noise

SHAPE = (3, 4, 9, 11)  # one image is no multiple of 16 normals: one stream and three differ


def request(**options: Any) -> Request:
    return Request(prompt="", num_inference_steps=1, **options)


def drawn(asked: Request, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """The start noise, and the draw that a sampler makes next."""
    noise = open_noise(asked, shape[0])
    return start_noise(asked, noise, shape), noise.normal(shape)


@pytest.mark.parametrize("per_image", [False, True])
def test_draws_are_those_of_diffusers_with_one_generator_or_a_list(per_image: bool) -> None:
    generators = [torch.Generator().manual_seed(5 + i) for i in range(3)]
    given = generators if per_image else generators[0]
    for found in drawn(request(seed=5, seed_per_image=per_image)):
        wanted = randn_tensor(SHAPE, generator=given, device=torch.device("cpu"), dtype=torch.float32)
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=2e-6)


def test_an_image_of_its_own_seed_is_what_that_seed_draws_alone() -> None:
    start, following = drawn(request(seed=5, seed_per_image=True))
    for i in range(3):
        alone = drawn(request(seed=5 + i), (1, *SHAPE[1:]))
        np.testing.assert_array_equal(start[i], alone[0][0])
        np.testing.assert_array_equal(following[i], alone[1][0])


def webui_slerp(val: float, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """What `slerp` of the web UIs' modules/rng.py says, for one image (4, h, w), in float64."""
    dot = torch.nn.functional.cosine_similarity(low, high, dim=1)
    omega = torch.acos(dot)
    weights = [torch.sin((1 - val) * omega) / torch.sin(omega), torch.sin(val * omega) / torch.sin(omega)]
    return weights[0].unsqueeze(1) * low + weights[1].unsqueeze(1) * high


@pytest.mark.parametrize("strength", [0.05, 0.5, 1.0])
def test_a_variation_is_the_web_uis(strength: float) -> None:
    """All images start from the one seed; the variation seed counts up; later noise is the seed's own."""
    options = {"seed": 9, "seed_per_image": True, "variation_seed": 77, "variation_strength": strength}
    start, following = drawn(request(**options))
    for i in range(3):
        base, variation = TorchCpuNoise(9), TorchCpuNoise(77 + i)
        low, high = (torch.from_numpy(s.normal(SHAPE[1:])).double() for s in (base, variation))
        np.testing.assert_allclose(start[i], webui_slerp(strength, low, high).numpy(), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(following[i], base.normal(SHAPE[1:]))


def test_no_strength_is_no_variation_and_full_strength_is_the_other_seed() -> None:
    plain, _ = drawn(request(seed=9))
    np.testing.assert_array_equal(drawn(request(seed=9, variation_seed=4))[0], plain)
    other, _ = drawn(request(seed=4))
    found, _ = drawn(request(seed=9, variation_seed=4, variation_strength=1.0))
    np.testing.assert_allclose(found, other, rtol=0, atol=1e-5)
    same, _ = drawn(request(seed=9, variation_seed=9, variation_strength=0.3))  # parallel: no division by sin 0
    np.testing.assert_allclose(same, plain, rtol=0, atol=1e-6)


def test_slerp_keeps_the_length_of_columns_of_equal_length() -> None:
    low, high = (TorchCpuNoise(seed).normal((4, 8, 8)) for seed in (1, 2))
    high *= np.linalg.norm(low, axis=1, keepdims=True) / np.linalg.norm(high, axis=1, keepdims=True)
    mixed = slerp(0.4, low, high)
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(mixed, axis=1), np.linalg.norm(low, axis=1), rtol=1e-4)


def test_the_noise_is_named() -> None:
    for name, source in (
        ("cpu", TorchCpuNoise(3)),
        ("cuda", TorchCudaNoise(3)),
        ("cuda:t4", TorchCudaNoise(3, GPUS["t4"])),
    ):
        found, _ = drawn(request(seed=3, noise=name), (1, 4, 128, 128))
        np.testing.assert_array_equal(found, source.normal((1, 4, 128, 128)))


def test_a_picture_tells_its_noise() -> None:
    assert noise_facts(request(seed=3), 0, 1) == {"seed": "3"}
    asked = request(seed=3, noise="cuda:t4", seed_per_image=True)
    assert noise_facts(asked, 1, 2) == {"seed": "4", "noise": "cuda:t4", "streams": "one per image"}
    asked = request(seed=3, seed_per_image=True, variation_seed=8, variation_strength=0.25)
    assert image_seeds(asked, 2) == ([3, 3], [8, 9])
    assert noise_facts(asked, 1, 2)["variation"] == "seed 9, strength 0.25"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": "gpu"}, "unknown noise 'gpu'"),
        ({"noise": "cuda:"}, "unknown noise"),
        ({"noise": "cuda:rtx490"}, "did you mean 'rtx4090'"),
        ({"noise": None}, "unknown noise"),
        ({"variation_strength": 1.5}, "variation_strength is a number from 0 to 1"),
        ({"variation_strength": float("nan")}, "variation_strength"),
        ({"variation_seed": "7"}, "expected an integer"),
        ({"seed": MAX_SEED, "seed_per_image": True}, "the last would be beyond"),
    ],
)
def test_bad_seeds_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_seeds(request(**options), 2)
