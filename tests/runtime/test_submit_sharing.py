"""Requests that are there together share calls of every network, and nobody holds up the steps for long."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from latentrt import Pipeline
from latentrt.engines.tensor import blank_feeds
from latentrt.runtime.turn import Turn
from support.submitting import Gate, held_back, rows_of


@pytest.mark.parametrize("component", ["text_encoder", "vae_decoder.kl-f8"])
def test_onnxruntimes_rows_are_independent(demo_bundle: Path, component: str) -> None:
    """What is encoded or decoded together is, bit for bit, what is encoded or decoded alone."""
    bound = {"rows": 5, "height": 8, "width": 12}
    with Pipeline.open(demo_bundle) as pipe:
        network = pipe.engines[component]
        [(name, blank)] = blank_feeds(network.inputs, bound).items()
        values = np.random.default_rng(3).standard_normal(blank.shape).astype(np.float32)
        together = network.run({name: values})
        for row in range(bound["rows"]):
            for output, answer in network.run({name: values[row : row + 1]}).items():
                np.testing.assert_array_equal(answer[0], together[output][row])


def test_requests_that_are_there_together_share_calls(pipe: Pipeline) -> None:
    gate = Gate()
    first = pipe.submit("a star", num_inference_steps=4, on_step=gate)
    assert gate.reached.wait(30)
    others = [pipe.submit("a star", num_inference_steps=3, seed=i) for i in (1, 2)]
    gate.opened.set()
    for submission in (first, *others):
        submission.result(30)
    assert rows_of(pipe) == [2, 6, 6, 6]


def test_newcomers_texts_share_a_call_and_what_occurs_twice_is_encoded_once(pipe: Pipeline) -> None:
    wanted = [{"prompt": prompt, "num_inference_steps": 2} for prompt in ("a star", "a cross", "a circle", "a square")]
    submissions = held_back(pipe, [*wanted, {"prompt": "a star", "num_inference_steps": 2, "seed": 7}])
    results = [submission.result(30) for submission in submissions]
    assert rows_of(pipe, "text_encoder") == [2, 5, 2]  # four prompts and "" fill a call of eight texts
    for result, options in zip(results, wanted, strict=False):
        np.testing.assert_array_equal(result.latents, pipe.generate(**options).latents)


def test_between_two_steps_there_is_one_other_turn(pipe: Pipeline) -> None:
    turns: list[Turn] = []
    pipe.on_turn = turns.append
    wanted = [{"prompt": "a star", "seed": seed, "num_inference_steps": 2 + seed % 4} for seed in range(24)]
    for submission in held_back(pipe, wanted):
        submission.result(30)
    kinds = [turn.kind for turn in turns]
    first, last = kinds.index("step", kinds.index("step") + 1), len(kinds) - kinds[::-1].index("step")
    assert not [pair for pair in pairwise(kinds[first:last]) if "step" not in pair]
    assert all(turn.rows <= 8 and turn.seconds > 0 for turn in turns if turn.kind == "step")
    sums = {kind: sum(turn.rows for turn in turns if turn.kind == kind) for kind in ("encode", "decode")}
    assert sums == {"encode": 2 * 25, "decode": 25}


def test_pictures_that_are_decoded_together_share_a_call(pipe: Pipeline) -> None:
    latents = np.random.default_rng(1).standard_normal((20, 4, 16, 16)).astype(np.float32)
    together = pipe.decode(latents)
    assert rows_of(pipe, "vae_decoder.kl-f8") == [16, 4]  # no more than one of 512x512 takes
    np.testing.assert_array_equal(together[17], pipe.decode(latents[17:18])[0])
