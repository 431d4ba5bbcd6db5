"""Percentiles and intervals: of known distributions, and of samples that any run may give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentrt.benchmarks.trial.statistics import spread, timing

seconds = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40)


@given(seconds)
def test_percentiles_are_in_order_and_within_the_samples(samples: list[float]) -> None:
    found = timing(samples)
    assert min(samples) <= found.low <= found.high <= max(samples)
    assert min(samples) <= found.p50 <= found.p90 <= found.p99 <= max(samples)
    assert found.samples == tuple(samples)


def test_one_sample_is_all_that_is_known() -> None:
    found = timing([2.0])
    assert (found.p50, found.p99, found.low, found.high) == (2.0, 2.0, 2.0, 2.0)


def test_equal_samples_give_an_equal_interval() -> None:
    samples = list(np.random.default_rng(3).gamma(9, size=30))
    assert timing(samples) == timing(samples)


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    true = np.median(generator.gamma(4, size=200_000))
    intervals = [timing(list(generator.gamma(4, size=25))) for _ in range(200)]
    held = sum(found.low <= true <= found.high for found in intervals)
    assert 180 <= held <= 200  # of 190 expected; the spread of that count is 3


@pytest.mark.parametrize(("samples", "share"), [([1.0, 1.0, 1.0], 0.0), ([1.0, 2.0, 3.0, 4.0, 5.0], 2 / 3)])
def test_the_spread_is_that_of_the_middle_half(samples: list[float], share: float) -> None:
    assert spread(samples) == pytest.approx(share)
