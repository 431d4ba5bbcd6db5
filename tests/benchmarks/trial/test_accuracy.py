"""Accuracy says how far kept arrays are apart, and never hides what cannot be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from latentrt.benchmarks.report.accuracy_tables import error_over_floor
from latentrt.benchmarks.trial.accuracy import compare
from latentrt.benchmarks.trial.kept import Kept
from latentrt.benchmarks.trial.results import MOST_PSNR

PROMPTS, STEPS = 3, 4


def arrays(seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((STEPS, 1, 4, 4, 4)).astype(np.float32)
    return {"images": rng.integers(0, 256, (1, 32, 32, 3)).astype(np.uint8), "latents": steps[-1], "steps": steps}


def keep(folder: Path, name: str, pictures: list[dict[str, Any]], unet: dict[str, Any] | None = None) -> Kept:
    files = []
    for index, picture in enumerate(pictures):
        files.append(folder / f"{name}-{index}.npz")
        np.savez(files[-1], **picture)
    components = {}
    if unet is not None:
        components["unet"] = folder / f"{name}-unet.npz"
        np.savez(components["unet"], **unet)
    return Kept(name, tuple(files), components)


@pytest.fixture
def reference(tmp_path: Path) -> Kept:
    return keep(tmp_path, "torch", [arrays(i) for i in range(PROMPTS)], {"out_sample": np.ones((2, 4), np.float32)})


def off(picture: dict[str, Any], by: float) -> dict[str, Any]:
    """The latents, and each step of them, too large by a share; the picture brighter by that share of 100 levels."""
    images = np.clip(picture["images"].astype(int) + round(100 * by), 0, 255).astype(np.uint8)
    return {"images": images, "latents": picture["latents"] * (1 + by), "steps": picture["steps"] * (1 + by)}


def test_equal_arrays_are_as_good_as_json_can_say(reference: Kept) -> None:
    found = compare(reference, reference)
    assert found.note is None
    assert len(found.steps) == STEPS
    for figures in (found.latents, *found.steps, found.components["unet"]):
        assert figures is not None
        assert figures["relative L2"].worst == figures["max abs"].worst == 0
        assert figures["cosine"].worst == pytest.approx(1)
        assert figures["PSNR, dB"].worst == MOST_PSNR
    assert found.picture is not None
    assert found.picture["PSNR, dB"].worst == MOST_PSNR
    assert found.picture["SSIM"].worst == pytest.approx(1)


def test_the_middle_and_the_worst_are_over_the_prompts(tmp_path: Path, reference: Kept) -> None:
    shares = (0.01, 0.3, 0.02)
    candidate = keep(tmp_path, "ours", [off(arrays(i), by) for i, by in enumerate(shares)])
    found = compare(reference, candidate)
    assert found.latents is not None
    assert found.latents["relative L2"].p50 == pytest.approx(0.02, rel=1e-3)
    assert found.latents["relative L2"].worst == pytest.approx(0.3, rel=1e-3)
    assert [step["relative L2"].worst for step in found.steps] == pytest.approx([0.3] * STEPS, rel=1e-3)
    assert found.components == {}
    assert found.note == "it does not call its unet alone"


def test_the_picture_is_judged_as_scikit_image_does(tmp_path: Path, reference: Kept) -> None:
    candidates = [off(arrays(i), 0.05) for i in range(PROMPTS)]
    found = compare(reference, keep(tmp_path, "ours", candidates)).picture
    assert found is not None
    pairs = [(arrays(i)["images"][0], candidates[i]["images"][0]) for i in range(PROMPTS)]
    psnr = [peak_signal_noise_ratio(e, a, data_range=255) for e, a in pairs]
    ssim = [structural_similarity(e, a, channel_axis=-1, data_range=255) for e, a in pairs]
    assert found["PSNR, dB"].worst == pytest.approx(min(psnr))
    assert found["SSIM"].worst == pytest.approx(min(ssim))
    assert found["max abs"].worst == 5


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "Inf")])
def test_a_number_that_is_none_leaves_no_figure_and_is_said(
    tmp_path: Path, reference: Kept, bad: float, word: str
) -> None:
    pictures = [arrays(i) for i in range(PROMPTS)]
    pictures[1]["latents"] = pictures[1]["latents"].copy()
    pictures[1]["latents"][0, 0, 0, 0] = bad
    pictures[1]["steps"][2, 0, 0, 0, 0] = bad
    found = compare(reference, keep(tmp_path, "ours", pictures, {"out_sample": np.full((2, 4), bad, np.float32)}))
    assert found.latents is None
    assert len(found.steps) == 2
    assert "unet" not in found.components
    assert found.picture is not None
    assert found.note is not None
    for words in (
        f"final latents of prompt 2: {word}",
        f"step 3 of prompt 2: {word}",
        f"its unet: {word}",
    ):
        assert words in found.note


def test_another_shape_is_said_and_not_stretched(tmp_path: Path, reference: Kept) -> None:
    pictures = [arrays(i) for i in range(PROMPTS)]
    pictures[0] = {"images": np.zeros((1, 16, 16, 3), np.uint8), "latents": np.zeros((1, 4, 2, 2), np.float32)}
    found = compare(reference, keep(tmp_path, "ours", pictures))
    assert found.picture is None
    assert found.latents is None
    assert found.steps == ()
    assert found.note is not None
    assert "the picture of prompt 1: shape (1, 16, 16, 3) where the reference has (1, 32, 32, 3)" in found.note
    assert "it does not tell its steps" in found.note


def test_a_black_picture_has_figures_and_is_named(tmp_path: Path, reference: Kept) -> None:
    pictures = [arrays(i) for i in range(PROMPTS)]
    pictures[2]["images"] = np.zeros_like(pictures[2]["images"])
    found = compare(reference, keep(tmp_path, "ours", pictures))
    assert found.picture is not None
    assert found.picture["PSNR, dB"].worst < 10
    assert found.note is not None
    assert "the picture of prompt 3: one value throughout" in found.note


def test_fewer_pictures_or_steps_are_said(tmp_path: Path, reference: Kept) -> None:
    found = compare(reference, keep(tmp_path, "two", [arrays(0), arrays(1)]))
    assert (found.picture, found.latents, found.steps) == (None, None, ())
    assert "2 pictures against the reference's 3" in (found.note or "")
    shorter = [{**arrays(i), "steps": arrays(i)["steps"][:-1]} for i in range(PROMPTS)]
    found = compare(reference, keep(tmp_path, "shorter", shorter))
    assert found.steps == ()
    assert found.latents is not None
    assert "has 3 steps and the reference's 4" in (found.note or "")
    assert "it gave no pictures to compare" in (compare(reference, Kept("none")).note or "")


def test_an_error_is_told_in_floors(tmp_path: Path, reference: Kept) -> None:
    bf16 = compare(reference, keep(tmp_path, "torch-bf16", [off(arrays(i), 0.01) for i in range(PROMPTS)]))
    ours = compare(reference, keep(tmp_path, "ours", [off(arrays(i), 0.02) for i in range(PROMPTS)]))
    assert error_over_floor(ours.latents, bf16.latents) == pytest.approx(2, rel=1e-2)
    assert error_over_floor(ours.latents, None) is None
    assert error_over_floor(ours.latents, compare(reference, reference).latents) is None
