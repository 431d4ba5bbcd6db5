"""What goes wrong in one of several submitted requests is its own alone, and a defect is told to all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latentrt import Pipeline
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError, InputError, NanPictureError
from latentrt.engines.tensor import Feeds
from latentrt.runtime.loop import Step
from latentrt.runtime.turn import Turn
from support.submitting import Gate, held_back


def test_a_text_that_cannot_be_encoded_fails_alone(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_for(pipe.engines["text_encoder"], monkeypatch, lambda feeds: len(feeds["inputs_embeds"]) in (4, 1))
    wanted = [{"prompt": "a star", "num_inference_steps": 2}, {"prompt": "a cross", "num_inference_steps": 2}]
    unguided = {"prompt": "a circle", "num_inference_steps": 2, "guidance_scale": 1.0}
    *good, bad = held_back(pipe, [*wanted, unguided])  # "a star", "", "a cross", "a circle": four rows
    with pytest.raises(EngineError, match="out of order"):
        bad.result(30)
    for submission, options in zip(good, wanted, strict=True):
        np.testing.assert_array_equal(submission.result(30).latents, pipe.generate(**options).latents)
    assert pipe.failed is None  # its next calls succeeded


def fails_for(engine: Engine, monkeypatch: pytest.MonkeyPatch, fails: Callable[[Feeds], bool]) -> None:
    run = engine.run

    def failing(feeds: Feeds) -> dict[str, NDArray[Any]]:
        if fails(feeds):
            raise EngineError("out of order")
        return run(feeds)

    monkeypatch.setattr(engine, "run", failing)


def test_nan_ends_its_own_request_alone(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = pipe.engines["vae_decoder.kl-f8"]
    run, wanted = decoder.run, [{"prompt": "a star", "num_inference_steps": 2, "seed": seed} for seed in range(3)]
    expected = [pipe.generate(**options) for options in wanted]
    scale = np.float32(pipe.bundle.manifest.model.scaling_factor)
    bad_latent = (expected[1].latents / scale)[0]

    def spoilt(feeds: Feeds) -> dict[str, NDArray[Any]]:
        [(name, pictures)] = run(feeds).items()
        is_bad = [np.array_equal(row, bad_latent) for row in feeds["latent_sample"]]
        return {name: np.where(np.array(is_bad)[:, None, None, None], np.float32("nan"), pictures)}

    monkeypatch.setattr(decoder, "run", spoilt)
    first, second, third = held_back(pipe, wanted)
    with pytest.raises(NanPictureError, match="the decoder gave NaN"):
        second.result(30)
    np.testing.assert_array_equal(first.result(30).images[0], expected[0].images[0])
    np.testing.assert_array_equal(third.result(30).images[0], expected[2].images[0])
    assert pipe.failed is None  # the engines are well


def test_an_error_ends_its_own_request_alone(pipe: Pipeline) -> None:
    def fails(step: Step) -> None:
        if step.index == 1:
            raise ValueError("the listener is broken")

    expected = pipe.generate("a star", num_inference_steps=4).latents
    gate = Gate()
    good = pipe.submit("a star", num_inference_steps=4, on_step=gate)
    assert gate.reached.wait(30)
    bad = pipe.submit("a cross", num_inference_steps=4, on_step=fails)
    gate.opened.set()
    np.testing.assert_array_equal(good.result(30).latents, expected)
    with pytest.raises(ValueError, match="the listener is broken"):
        bad.result(30)
    with pytest.raises(InputError, match="multiple of 32"):
        pipe.submit("a star", width=100)
    assert pipe.submit("a star", num_inference_steps=4).result(30).latents.shape == expected.shape


def test_an_engines_failure_reaches_whoever_waits(pipe: Pipeline) -> None:
    gate = Gate()
    submission = pipe.submit("a star", num_inference_steps=4, on_step=gate)
    assert gate.reached.wait(30)
    pipe.engines["unet"].close()
    gate.opened.set()
    with pytest.raises(EngineError, match="closed"):
        submission.result(30)
    assert isinstance(pipe.failed, EngineError)


def test_a_defect_reaches_all_who_wait_and_is_told(pipe: Pipeline) -> None:
    gate, defect = Gate(), RuntimeError("a defect")

    def breaks(turn: Turn) -> None:
        if turn.kind == "step":
            raise defect

    assert pipe.failed is None
    pipe.on_turn = breaks
    submissions = [pipe.submit("a star", num_inference_steps=3, on_step=gate)]
    assert gate.reached.wait(30)
    submissions.append(pipe.submit("a cross", num_inference_steps=3))
    gate.opened.set()
    for submission in submissions:
        with pytest.raises(RuntimeError, match="a defect"):
            submission.result(30)
    assert pipe.failed is defect
    with pytest.raises(EngineError, match=r"ended by RuntimeError.*open it again"):
        pipe.submit("a star")
