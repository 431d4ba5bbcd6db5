"""The plan of a picture under a budget, from figures alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from latentrt.engines.errors import InputError
from latentrt.runtime.memory_plan import Phase, closed_first, plan_memory

MB = 10**6
TEXT = Phase("text_encoder", 100 * MB, 0, {1: 10 * MB})
UNET = Phase("unet", 1000 * MB, 50 * MB, {2: 800 * MB, 1: 400 * MB})
DECODER = Phase("vae_decoder.kl-f8", 200 * MB, 0, {64: 1600 * MB, 56: 1300 * MB, 32: 300 * MB})
PHASES = (TEXT, UNET, DECODER)


def test_all_stay_open_where_that_fits() -> None:
    plan = plan_memory(4000 * MB, 100 * MB, PHASES)
    assert (plan.in_turn, plan.peak) == (False, 3810 * MB)
    assert plan.chosen == {"text_encoder": 1, "unet": 2, "vae_decoder.kl-f8": 64}
    assert plan_memory(3810 * MB, 100 * MB, PHASES).in_turn is False
    assert plan_memory(3809 * MB, 100 * MB, PHASES).in_turn is True


def test_engines_go_in_turn_before_anything_else_changes() -> None:
    plan = plan_memory(2000 * MB, 100 * MB, PHASES)
    assert (plan.in_turn, plan.peak) == (True, 1900 * MB)  # the text encoder closed for the UNet, that for the decoder
    assert plan.chosen == {"text_encoder": 1, "unet": 2, "vae_decoder.kl-f8": 64}


def test_rows_and_tiles_shrink_to_the_largest_that_fit() -> None:
    plan = plan_memory(1700 * MB, 100 * MB, PHASES)
    assert plan.chosen == {"text_encoder": 1, "unet": 1, "vae_decoder.kl-f8": 56}
    assert plan.peak <= plan.budget
    assert plan_memory(1500 * MB, 100 * MB, PHASES).chosen["vae_decoder.kl-f8"] == 32


@pytest.mark.parametrize("budget", range(1500, 4200, 100))
def test_the_peak_is_within_the_budget(budget: int) -> None:
    plan = plan_memory(budget * MB, 100 * MB, PHASES)
    assert max(100 * MB + phase.needs(plan.chosen[phase.component]) for phase in PHASES) <= plan.peak <= plan.budget


def test_what_cannot_fit_is_refused_by_name_and_number() -> None:
    with pytest.raises(InputError, match=r"1.49 GB of memory are too little: unet takes 1.50 GB by itself") as refused:
        plan_memory(1490 * MB, 100 * MB, PHASES)
    assert "\n" not in str(refused.value)


def test_the_first_opened_is_the_first_closed() -> None:
    held = {"a": 3, "b": 4, "c": 5}
    assert closed_first(held, 8, 20) == []
    assert closed_first(held, 9, 20) == ["a"]
    assert closed_first(held, 12, 20) == ["a", "b"]
    assert closed_first(held, 99, 20) == ["a", "b", "c"]


def test_weights_are_streamed_only_where_nothing_else_helps() -> None:
    streaming = replace(UNET, streamable=900 * MB)
    plan = plan_memory(1700 * MB, 100 * MB, (streaming,))
    assert (plan.chosen, plan.peak) == ({"unet": 1}, 1500 * MB)  # all weights, one row a call
    plan = plan_memory(1200 * MB, 100 * MB, (streaming,))
    assert (plan.chosen, plan.peak) == ({"unet": 2}, 1200 * MB)  # few calls, as each brings weights over
    assert streaming.streamed(2, 1100 * MB) == 700 * MB
    assert plan_memory(600 * MB, 100 * MB, (streaming,)).chosen == {"unet": 1}
    with pytest.raises(InputError, match=r"unet takes 600 MB by itself \(.* 100 MB for its weights"):
        plan_memory(599 * MB, 100 * MB, (streaming,))
