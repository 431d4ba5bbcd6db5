"""An engine that answers as recorded passes; one that is off, or answers NaN or another shape, is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from latentrt.engines.backend import get_backend
from latentrt.engines.bundle import Bundle
from latentrt.engines.engine import Engine
from latentrt.engines.golden import golden_cases
from latentrt.engines.tensor import Feeds
from latentrt.engines.threshold import MAX_ABS_ERROR, Threshold, component_threshold
from latentrt.engines.verification import Check, Verification, check_calls, judge, summary

Arrays = dict[str, np.ndarray]
Change = Callable[[np.ndarray], np.ndarray]
COMPONENTS = ["text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8"]


class Recorded(Engine):
    """Answers what the record says, after `change`."""

    def __init__(self, bundle: Bundle, component: str, change: Change = np.copy) -> None:
        key = get_backend("fake").key(bundle, component)
        super().__init__(component, bundle.component(component), key)
        self._cases, self._change = golden_cases(bundle, component), change

    def _run(self, feeds: Feeds) -> Arrays:
        case = next(c for c in self._cases if all(np.array_equal(feeds[n], a) for n, a in c.inputs.items()))
        return {name: self._change(array) for name, array in case.outputs.items()}


def verify(engine: Engine, bundle: Bundle) -> tuple[list[Check], Verification]:
    threshold = component_threshold(bundle.component(engine.name), "fp32")
    checks = check_calls(engine, golden_cases(bundle, engine.name), threshold)
    return checks, summary(checks, threshold)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_perfect_engine_passes(tiny_original: Path, component: str) -> None:
    bundle = Bundle.open(tiny_original)
    checks, result = verify(Recorded(bundle, component), bundle)
    assert {check.case for check in checks} == {"rows1", "rows3"}
    assert {check.against for check in checks} == {"PyTorch"}
    assert (result.error, result.failures, result.passed) == (0.0, (), True)
    assert result.checks == 2 * len(bundle.component(component).outputs)


def test_a_small_error_is_measured_and_passes(tiny_original: Path) -> None:
    bundle = Bundle.open(tiny_original)
    checks, result = verify(Recorded(bundle, "unet", lambda a: a + np.float32(5e-5)), bundle)
    assert result.passed
    assert result.error == pytest.approx(5e-5, abs=1e-7)  # answers are below 1: float32 rounds the sum to 6e-8
    assert all(check.difference.max_abs == pytest.approx(5e-5, abs=1e-7) for check in checks)


def one_wrong(value: float) -> Change:
    def change(array: np.ndarray) -> np.ndarray:
        wrong = array.copy()
        wrong.flat[-1] = value
        return wrong

    return change


BAD_ANSWERS: dict[str, tuple[Change, str]] = {
    "off": (lambda a: a + np.float32(3e-4), r"max abs 0\.0003, over 0\.0001"),
    "one value": (one_wrong(9.0), r"max abs \d"),
    "NaN": (one_wrong(np.nan), "is NaN"),
    "inf": (one_wrong(np.inf), "is infinite"),
    "one row for all": (lambda a: a[:1, ..., :1], "is of another shape"),  # numpy would stretch it
    "zeros": (np.zeros_like, "is one value throughout"),
}


@pytest.mark.parametrize(("change", "found"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_a_wrong_answer_fails_and_is_named(tiny_original: Path, change: Change, found: str) -> None:
    bundle = Bundle.open(tiny_original)
    _, result = verify(Recorded(bundle, "unet", change), bundle)
    assert not result.passed
    assert len(result.failures) == 2
    import re

    assert re.search(f"out_sample of unet in rows1:? {found}", result.failures[0])


@pytest.mark.parametrize("wrong", ["latent_mean", "latent_std"])
def test_nan_in_any_output_of_any_case_fails(tiny_original: Path, wrong: str) -> None:
    bundle = Bundle.open(tiny_original)

    class OneOutput(Recorded):
        def _run(self, feeds: Feeds) -> Arrays:
            answers = super()._run(feeds)
            if len(answers[wrong]) == 1:  # the first case; the second, good one must not cover it
                answers[wrong][...] = np.nan
            return answers

    _, result = verify(OneOutput(bundle, "vae_encoder"), bundle)
    assert result.failures == (f"{wrong} of vae_encoder in rows1 is NaN",)
    assert result.error is None


def test_nothing_checked_is_not_passed() -> None:
    assert not summary([], Threshold(metric="max_abs", value=1.0, origin="")).passed


def test_a_record_survives_json(tiny_original: Path) -> None:
    """NaN included, which JSON has no word for."""
    bundle = Bundle.open(tiny_original)
    for change in (np.copy, one_wrong(np.nan), one_wrong(9.0)):
        _, result = verify(Recorded(bundle, "unet", change), bundle)
        assert msgspec.json.decode(msgspec.json.encode(result), type=Verification) == result


def test_without_a_threshold_only_the_plainly_wrong_fails() -> None:
    expected = np.linspace(-1, 1, 12, dtype=np.float32)

    def verdict(answer: np.ndarray) -> Check:
        return judge("trajectory", "step 1", "latents", "PyTorch", answer, expected, None)

    far = verdict(expected[::-1].copy())
    assert (far.passed, far.limit) == (True, None)
    assert far.difference.cosine == pytest.approx(-1)
    assert not verdict(np.full_like(expected, np.nan)).passed
    assert not verdict(np.zeros_like(expected)).passed


def test_the_limit_is_stated_in_the_tensors_own_unit() -> None:
    expected = (100 * np.random.default_rng(0).standard_normal(1000)).astype(np.float32)
    threshold = Threshold(metric="max_abs", value=MAX_ABS_ERROR, origin="", scaled=True)
    answer = expected + np.float32(0.005)
    check = judge("unet", "case", "out", "PyTorch", answer, expected, threshold)
    assert check.limit == pytest.approx(MAX_ABS_ERROR * expected.std(), rel=1e-4)
    assert check.passed
    error = summary([check], threshold).error
    assert error is not None
    assert math.isclose(error, 5e-3 / expected.std(), rel_tol=1e-2)
