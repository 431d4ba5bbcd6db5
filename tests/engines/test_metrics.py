"""The figures, by scikit-image's, scipy's and numpy's own; and what is plainly wrong is named."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from scipy.spatial.distance import cosine
from skimage.metrics import peak_signal_noise_ratio

from latentrt.engines.metrics import Difference, difference


def pair(seed: int, error: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    expected = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    return expected, (expected + error * rng.standard_normal(expected.shape)).astype(np.float32)


@pytest.mark.parametrize("error", [1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_figures_are_those_of_the_field(seed: int, error: float) -> None:
    expected, answer = pair(seed, error)
    found = difference(answer, expected)
    exact, given = expected.astype(np.float64), answer.astype(np.float64)
    assert found.max_abs == np.abs(given - exact).max()
    assert found.relative_l2 == pytest.approx(np.linalg.norm(given - exact) / np.linalg.norm(exact))
    assert found.cosine == pytest.approx(1 - cosine(given.ravel(), exact.ravel()), abs=1e-14)
    psnr = peak_signal_noise_ratio(exact, given, data_range=exact.max() - exact.min())
    assert found.psnr == pytest.approx(psnr)
    assert found.finding is None


def test_psnr_of_a_picture_takes_the_range_of_pictures() -> None:
    rng = np.random.default_rng(3)
    expected, answer = rng.uniform(-0.4, 0.7, (2, 3, 16, 16))
    found = difference(answer, expected, data_range=2.0).psnr
    assert found == pytest.approx(peak_signal_noise_ratio(expected, answer, data_range=2.0))
    assert found != pytest.approx(difference(answer, expected).psnr)


def test_half_precision_is_compared_without_rounding_the_difference() -> None:
    expected, _ = pair(0, 0.0)
    answer = expected.astype(np.float16)
    exact = np.abs(answer.astype(np.float64) - expected.astype(np.float64)).max()
    assert difference(answer, expected).max_abs == exact


ONES, WAVE = np.ones((2, 4)), np.arange(8.0).reshape(2, 4)
EDGES = {
    "equal": (WAVE, WAVE, Difference(max_abs=0.0, relative_l2=0.0, cosine=1.0, psnr=math.inf)),
    "both zero": (0 * ONES, 0 * ONES, Difference(max_abs=0.0, relative_l2=0.0, cosine=1.0, psnr=math.inf)),
    "from zero": (WAVE, 0 * ONES, Difference(max_abs=7.0, relative_l2=math.inf, cosine=0.0, psnr=-math.inf)),
    "opposite": (-ONES, ONES, Difference(max_abs=2.0, relative_l2=2.0, cosine=-1.0, psnr=-math.inf)),
}


@pytest.mark.parametrize(("answer", "expected", "found"), EDGES.values(), ids=EDGES)
def test_edges(answer: np.ndarray, expected: np.ndarray, found: Difference) -> None:
    figures = msgspec.structs.astuple
    assert figures(difference(answer, expected))[:4] == pytest.approx(figures(found)[:4])


def spoiled(value: float) -> np.ndarray:
    wrong = WAVE.copy()
    wrong[1, 2] = value
    return wrong


WRONG = {"NaN": spoiled(np.nan), "Inf": spoiled(-np.inf), "constant": 3 * ONES, "wrong shape": WAVE[:1]}


@pytest.mark.parametrize("finding", WRONG)
def test_what_is_plainly_wrong_is_named(finding: str) -> None:
    found = difference(WRONG[finding], WAVE)
    assert found.finding == finding
    assert math.isnan(found.relative_l2) == (finding != "constant")


def test_one_value_throughout_is_right_where_one_is_expected() -> None:
    assert difference(3 * ONES, 3 * ONES).finding is None


def test_a_reference_that_is_no_number_agrees_with_nothing() -> None:
    assert math.isnan(difference(WAVE, spoiled(np.nan)).max_abs)


def test_json_has_null_for_what_is_no_number() -> None:
    assert b'"psnr":null' in msgspec.json.encode(difference(WAVE, WAVE))
