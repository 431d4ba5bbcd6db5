"""Once requests are submitted the engines are one thread's: whoever else would use them is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latentrt import Pipeline, Request
from latentrt.engines.errors import EngineError
from latentrt.engines.tensor import Feeds

REFUSED: dict[str, Callable[[Pipeline], object]] = {
    "stream": lambda pipe: pipe.stream("a star"),
    "start": lambda pipe: pipe.start(Request(prompt="a star")),
    "step": lambda pipe: pipe.step(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_once_submitted_to_a_pipeline_is_not_stepped_by_hand(pipe: Pipeline, name: str) -> None:
    pipe.submit("a star", num_inference_steps=1).result(30)
    with pytest.raises(EngineError, match=r"its own thread draws them: use submit\(\) or generate\(\)"):
        REFUSED[name](pipe)


def test_what_is_stepped_by_hand_is_finished_before_anything_is_submitted(pipe: Pipeline) -> None:
    stream = pipe.stream("a star", num_inference_steps=3)
    with pytest.raises(EngineError, match=r"start\(\) or stream\(\) are being drawn"):
        pipe.submit("a star")
    expected = stream.result().latents
    np.testing.assert_array_equal(pipe.submit("a star", num_inference_steps=3).result(30).latents, expected)
    assert pipe.decode(expected).shape == (1, 3, 128, 128)


def test_nothing_is_submitted_while_another_thread_is_at_work_with_the_engines(pipe: Pipeline) -> None:
    decoder = pipe.engines["vae_decoder.kl-f8"]
    run, reached, go_on = decoder.run, threading.Event(), threading.Event()

    def held(feeds: Feeds) -> dict[str, NDArray[Any]]:
        reached.set()
        assert go_on.wait(30)
        return run(feeds)

    decoder.run = held  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as threads:
        drawn = threads.submit(pipe.generate, "a star", num_inference_steps=2)
        assert reached.wait(30)  # its loop is empty by now: it decodes
        with pytest.raises(EngineError, match="are being drawn"):
            pipe.submit("a star", num_inference_steps=2)
        go_on.set()
        drawn.result(30)
    assert pipe.submit("a star", num_inference_steps=2).result(30).images


def test_a_listener_neither_waits_for_its_own_thread_nor_closes_it(pipe: Pipeline) -> None:
    with pytest.raises(EngineError, match=r"submit\(\) it"):
        pipe.submit("a star", num_inference_steps=1, on_step=lambda _: pipe.generate("a star")).result(30)
