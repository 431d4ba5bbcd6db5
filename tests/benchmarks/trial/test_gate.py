"""The gate on recorded figures: what is slower, larger or less exact fails by name, and noise alone does not."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentrt.benchmarks.trial.gate import Finding, Limits, check_baseline, judge, undecided
from latentrt.benchmarks.trial.results import (
    Accuracy,
    Conditions,
    Contestant,
    Environment,
    Machine,
    Memory,
    Results,
    Settings,
    Spread,
)
from latentrt.benchmarks.trial.slowdown import Slowdown, slowdown
from latentrt.benchmarks.trial.statistics import timing
from latentrt.engines.errors import InputError

MACHINE = Machine(processor="a processor", cores=2, memory=10**10, system="Linux x86_64")
PICTURES, TURNS = 6, 8


def recorded(seed: int, factor: float = 1.0, noise: float = 0.03, drift: float = 0.1, **others: Any) -> Contestant:
    """A machine whose speed drifts from turn to turn, pictures that take longer now and then, and a yardstick."""
    generator = np.random.default_rng(seed)
    speed = np.repeat(1 + drift * generator.standard_normal(TURNS), PICTURES)
    pictures = factor * speed * (1 + noise * generator.exponential(size=TURNS * PICTURES))
    yardstick = 0.02 * speed * (1 + noise / 3 * generator.exponential(size=TURNS * PICTURES))
    words: dict[str, Any] = {
        "state": "measured",
        "title": "latentrt",
        "environment": Environment(python="3"),
        "latency": {"prompt to PNG bytes": timing(list(pictures))},
        "yardstick": timing(list(yardstick)),
        "processor": tuple(1.8 * pictures),
        "parts": {"unet": 0.8 * factor, "vae_decoder": 0.1},
        "memory": Memory(rss=10**9),
        "accuracy": accuracy(60.0),
    }
    return Contestant(**(words | others))


def accuracy(psnr: float) -> Accuracy:
    return Accuracy(reference="golden", picture={"PSNR, dB": Spread(p50=psnr, worst=psnr)})


def results(contestant: Contestant, **others: Any) -> Results:
    wanted = Settings(
        bundle="0",
        model="1",
        contestants=("latentrt",),
        prompts=("a",),
        num_inference_steps=2,
        guidance_scale=7.5,
        sampler="euler",
        width=64,
        height=64,
        rounds=TURNS,
        pictures=PICTURES,
    )
    words: dict[str, Any] = {
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "latentrt": "0",
        "machine": MACHINE,
        "conditions": Conditions(others=0, worst_others=0),
        "settings": wanted,
        "contestants": {"latentrt": contestant},
        "yardstick": "work 1",
    }
    return Results(**(words | others))


def failing(before: Contestant, now: Contestant, **limits: Any) -> list[str]:
    found = judge(results(before), results(now), Limits(**limits))
    return [finding.words for finding in found if finding.failed]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_drifting_machine_alone_does_not_fail(first: int, second: int) -> None:
    assert failing(recorded(first), recorded(second), max_slowdown=0.05) == []


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_tenth_slower_fails_and_says_so(first: int, second: int) -> None:
    [words] = failing(recorded(first), recorded(second, factor=1.1), max_slowdown=0.05)
    assert "slower than the baseline" in words
    assert "beyond the noise of both runs" in words
    assert "its unet by +10.0%" in words


def shares(
    before: Contestant, now: Contestant, pictures: tuple[int, int] = (PICTURES, PICTURES), relative: bool = True
) -> Slowdown:
    found = slowdown(before, now, pictures, relative)
    assert found is not None
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 2.0), st.floats(1.0, 1.5))
def test_more_time_is_never_less_of_a_slowdown(seed: int, factor: float, more: float) -> None:
    pictures = (PICTURES, PICTURES)
    less = shares(recorded(1), recorded(seed, factor), pictures)
    worse = shares(recorded(1), recorded(seed, factor * more), pictures)
    assert less.low <= less.share <= less.high
    assert worse.share >= less.share - 1e-9
    assert worse.low >= less.low - 1e-9


def test_without_a_yardstick_in_common_a_drift_counts() -> None:
    """The whole machine is a fifth slower: relative to the yardstick nothing happened, by the clock a fifth did."""
    before, now = recorded(1, drift=0), recorded(2, drift=0)
    scaled = [1.2 * seconds for seconds in now.latency["prompt to PNG bytes"].samples]
    assert now.yardstick is not None
    now = msgspec.structs.replace(
        now,
        latency={"prompt to PNG bytes": timing(scaled)},
        yardstick=timing([1.2 * seconds for seconds in now.yardstick.samples]),
    )
    assert shares(before, now).share == pytest.approx(0, abs=0.03)
    assert shares(before, now, relative=False).share == pytest.approx(0.2, abs=0.03)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_a_yardstick_that_pictures_do_not_follow_hides_nothing(seed: int) -> None:
    """What slows it down is none of theirs: divided by it, they would drown in its noise."""
    generator = np.random.default_rng(seed)

    def beside_noise(one: Contestant) -> Contestant:
        alone = np.repeat(generator.lognormal(0, 0.3, TURNS), PICTURES)
        return msgspec.structs.replace(one, yardstick=timing(list(0.02 * alone)))

    before = beside_noise(recorded(1, drift=0))
    found = shares(before, beside_noise(recorded(2, drift=0, factor=1.1)))
    assert found.low < 0.1 < found.high
    assert found.high - found.low < 0.15


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(1.2, 3.0))
def test_pictures_that_others_disturbed_do_not_count(seed: int, longer: float) -> None:
    """Two of three are drawn while others take a core, and take much longer: what is left decides."""
    generator = np.random.default_rng(seed)
    now = recorded(seed)
    samples = np.array(now.latency["prompt to PNG bytes"].samples)
    disturbed = np.arange(len(samples)) % 3 > 0
    samples[disturbed] *= longer
    others = np.where(disturbed, 0.2 + generator.random(len(samples)), 0.0)
    words = {"latency": {"prompt to PNG bytes": timing(list(samples))}, "others": tuple(others)}
    assert failing(recorded(1), msgspec.structs.replace(now, **words), max_slowdown=0.05) == []
    alone = msgspec.structs.replace(now, **words | {"others": ()})
    assert failing(recorded(1), alone, max_slowdown=0.05) != [] or longer < 1.3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_what_others_took_beside_every_picture_is_not_ours(seed: int, held_up: float) -> None:
    """A tenth of a core, which is too little to leave a picture out: it holds it up not at all, or for as long."""
    every = (0.1,) * (TURNS * PICTURES)
    beside = recorded(seed, factor=1 + held_up * every[0], others=every)
    assert failing(recorded(1), beside, max_slowdown=0.05) == []
    found, quiet = shares(recorded(1), beside), shares(recorded(1), recorded(seed, factor=1 + held_up * every[0]))
    assert found.share < quiet.share
    assert found.high - found.low > quiet.high - quiet.low


def test_where_others_disturbed_all_of_them_processor_time_decides() -> None:
    """By the clock everything took three times as long, for others had the cores; the work itself did not grow."""
    every = (1.0,) * (TURNS * PICTURES)
    now = recorded(2)
    slow = {"latency": {"prompt to PNG bytes": timing([3 * s for s in now.latency["prompt to PNG bytes"].samples])}}
    assert failing(recorded(1), msgspec.structs.replace(now, others=every, **slow), max_slowdown=0.05) == []
    now = recorded(2, factor=1.12, others=every)
    [words] = failing(recorded(1), now, max_slowdown=0.05)
    assert "by processor time, as others disturbed the clock" in words


def test_processor_time_says_nothing_of_what_a_gpu_draws() -> None:
    every = (1.0,) * (TURNS * PICTURES)
    now = recorded(2, factor=1.5, others=every, memory=Memory(rss=10**9, gpu=10**9))
    [finding] = judge(results(recorded(1)), results(now), Limits(max_slowdown=0.05))
    assert "undecided" in finding.words


def test_where_no_picture_was_undisturbed_nothing_is_decided() -> None:
    now = recorded(2, factor=1.5, others=(1.0,) * (TURNS * PICTURES), processor=())
    [finding] = judge(results(recorded(1)), results(now), Limits(max_slowdown=0.05))
    assert not finding.failed
    assert finding.in_doubt
    assert "undecided: too few pictures were drawn while others took less than 0.15 of a core" in finding.words


def test_what_noise_explains_is_said_but_does_not_fail() -> None:
    before, now = recorded(1, noise=1.5), recorded(5, factor=1.2, noise=1.5)
    [finding] = [
        found
        for found in judge(results(before), results(now), Limits(max_slowdown=0.0001))
        if "slower" in found.words or "faster" in found.words
    ]
    assert finding.failed is ("beyond" in finding.words)
    assert finding.in_doubt or finding.failed


@pytest.mark.parametrize(
    ("change", "limits", "said"),
    [
        (
            {"accuracy": accuracy(39.9)},
            {"min_psnr": 40.0},
            "worst picture has PSNR 39.90 dB against golden, limit 40.00",
        ),
        ({"accuracy": accuracy(70.0)}, {"min_ssim": 0.9}, "no picture to compare, of which SSIM 0.9000 was asked"),
        ({"accuracy": None}, {"min_psnr": 40.0}, "no picture to compare"),
        ({"memory": Memory(rss=12 * 10**8)}, {"max_memory_growth": 0.1}, "peak memory is +20.0%"),
        ({"state": "failed", "reason": "NaN", "latency": {}}, {"min_psnr": 1.0}, "latentrt failed: NaN"),
    ],
)
def test_a_crossed_limit_is_named(change: dict[str, Any], limits: dict[str, Any], said: str) -> None:
    before = recorded(1)
    assert failing(before, before, **limits) == ([] if "min_ssim" not in limits else failing(before, before, **limits))
    [words] = failing(before, recorded(1, **change), **limits)
    assert said in words


def test_limits_that_are_kept_are_told_too() -> None:
    before = recorded(1)
    found = judge(results(before), results(before), Limits(max_slowdown=0.05, max_memory_growth=0.1, min_psnr=40))
    assert [finding.failed for finding in found] == [False, False, False]


SETTINGS = results(recorded(1)).settings


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_inference_steps": 3}, "num_inference_steps was 2, now 3"),
        ({"model": "2"}, "model was 1, now 2"),
        ({"prompts": ("a", "b")}, "prompts was a, now a, b"),
        ({"contestants": ("latentrt:openvino",)}, "other contestants: .* has no latentrt"),
    ],
)
def test_a_baseline_of_something_else_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    wanted = msgspec.structs.replace(SETTINGS, **change)
    with pytest.raises(InputError, match=said):
        check_baseline(results(recorded(1)), wanted, MACHINE, "work 1", Limits())


@pytest.mark.parametrize(
    "change", [{"bundle": "9"}, {"rounds": 3}, {"pictures": 1}, {"contestants": ("latentrt", "torch")}]
)
def test_what_a_gate_is_for_may_differ(change: dict[str, Any]) -> None:
    wanted = msgspec.structs.replace(SETTINGS, **change)
    assert check_baseline(results(recorded(1)), wanted, MACHINE, "work 1", Limits()) == []


def test_another_machine_is_refused_unless_it_is_allowed_and_then_said() -> None:
    other = msgspec.structs.replace(MACHINE, cores=4, memory=2 * 10**10)
    with pytest.raises(InputError, match=r"cores was 2, now 4; memory was 10.0 GB, now 20.0 GB.*--other-machine"):
        check_baseline(results(recorded(1)), SETTINGS, other, "work 1", Limits())
    [note] = check_baseline(results(recorded(1)), SETTINGS, other, "work 1", Limits(other_machine=True))
    assert "another machine: cores was 2" in note


def test_another_yardstick_is_said() -> None:
    [note] = check_baseline(results(recorded(1)), SETTINGS, MACHINE, "work 2", Limits())
    assert "times are compared as they are" in note


def test_no_further_turns_are_taken_for_what_has_failed_for_good() -> None:
    doubt, slower = Finding("slower?", failed=False, in_doubt=True), Finding("slower!", failed=True, in_doubt=True)
    spoilt, good = Finding("spoilt", failed=True), Finding("good", failed=False)
    assert undecided([good, doubt])
    assert undecided([good, slower])  # more turns may show that it is not
    assert not undecided([good])
    assert not undecided([spoilt, doubt])
