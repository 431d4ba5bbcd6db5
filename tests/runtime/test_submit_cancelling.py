"""Submitted requests that are called off, one by one or with their pipeline: their rows are free at once."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest

from latentrt import Pipeline
from latentrt.engines.errors import EngineError
from support.submitting import Gate, rows_of


def test_what_waits_for_encoding_or_decoding_is_cancelled_too(pipe: Pipeline) -> None:
    """In the turn that ends the first request's steps, both wait: it for its decoding, the other for its encoding."""
    gate = Gate()
    finished = pipe.submit("a star", num_inference_steps=1, on_step=gate)
    assert gate.reached.wait(30)
    newcomer = pipe.submit("a cross", num_inference_steps=1)
    assert finished.cancel()
    assert newcomer.cancel()
    gate.opened.set()
    pipe.submit("a circle", num_inference_steps=1).result(30)
    assert rows_of(pipe) == [2, 2]
    assert rows_of(pipe, "text_encoder") == [2, 2]
    assert rows_of(pipe, "vae_decoder.kl-f8") == [1]


def test_cancelling_midway_frees_the_rows(pipe: Pipeline) -> None:
    gate = Gate()
    bad = pipe.submit("a star", num_inference_steps=50, on_step=gate)
    assert gate.reached.wait(30)
    good = pipe.submit("a star", num_inference_steps=3)
    assert bad.running()
    assert bad.cancel()
    gate.opened.set()
    expected = good.result(30)
    assert rows_of(pipe)[:4] == [2, 2, 2, 2]  # of two requests it would have been four
    with pytest.raises(CancelledError):
        bad.result(30)
    assert bad.cancelled()
    np.testing.assert_array_equal(pipe.generate("a star", num_inference_steps=3).latents, expected.latents)
    assert not good.cancel()


@pytest.mark.parametrize("finish", [True, False])
def test_closing_finishes_or_cancels_what_is_in_flight(demo_bundle: Path, finish: bool) -> None:
    pipe, gate = Pipeline.open(demo_bundle, engine="fake"), Gate()
    running = pipe.submit("a star", num_inference_steps=5, on_step=gate)
    assert gate.reached.wait(30)
    waiting = pipe.submit("a cross", num_inference_steps=5)
    threading.Timer(0.1, gate.opened.set).start()
    pipe.close(finish=finish)
    for submission in (running, waiting):
        assert submission.done()
        assert submission.cancelled() is not finish
    with pytest.raises(EngineError, match="closed"):
        pipe.submit("a star")
    pipe.close()


def test_leaving_by_an_error_cancels(demo_bundle: Path) -> None:
    submissions = []

    def leave() -> None:
        with Pipeline.open(demo_bundle, engine="fake") as pipe:
            submissions.append(pipe.submit("a star", num_inference_steps=1000))
            raise KeyError

    with pytest.raises(KeyError):
        leave()
    assert submissions[0].cancelled()
