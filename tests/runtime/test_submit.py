"""Requests from many threads: each gets the picture that it would get alone, and hears how far it is."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from latentrt import Pipeline
from latentrt.runtime.loop import Step
from latentrt.runtime.turn import Turn
from support.submitting import OPTIONS


@pytest.mark.parametrize("engine", ["fake", "onnxruntime"])
def test_threads_that_submit_get_the_pictures_that_generate_draws(demo_bundle: Path, engine: str) -> None:
    """Bit for bit: the rows of both engines are independent, whichever of them share a call of any network."""
    with Pipeline.open(demo_bundle, engine=engine) as pipe:
        turns: list[Turn] = []
        pipe.on_turn = turns.append
        alone = [pipe.generate(**options) for options in OPTIONS]
        with ThreadPoolExecutor(8) as threads:
            drawn = list(threads.map(lambda options: pipe.submit(**options).result(120), OPTIONS))
    for result, expected in zip(drawn, alone, strict=True):
        np.testing.assert_array_equal(result.latents, expected.latents)
        for image, wanted in zip(result.images, expected.images, strict=True):
            np.testing.assert_array_equal(image, wanted)
        assert result.facts == expected.facts
    assert max(turn.requests for turn in turns if turn.kind == "step") > 1


def test_submissions_are_awaited_and_cancelled_by_asyncio(pipe: Pipeline) -> None:
    async def draw() -> list[np.ndarray]:
        results = await asyncio.gather(*(pipe.submit(**options) for options in OPTIONS))
        long = pipe.submit("a star", num_inference_steps=1000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(long), 0.05)
        assert long.cancelled()
        return [result.latents for result in results]

    expected = [pipe.generate(**options).latents for options in OPTIONS]
    for drawn, alone in zip(asyncio.run(draw()), expected, strict=True):
        np.testing.assert_array_equal(drawn, alone)


def test_progress_is_told_step_by_step(pipe: Pipeline) -> None:
    steps: list[Step] = []
    submission = pipe.submit("a star", num_inference_steps=5, sampler="pndm", on_step=steps.append)
    submission.result(30)
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert (submission.steps_done, submission.steps_total) == (5, 5)
    assert submission.done()
    assert not submission.running()


def test_words_that_are_cut_are_told(pipe: Pipeline) -> None:
    submission = pipe.submit("a red star " * 30 + "zebra", num_inference_steps=1)
    submission.result(30)
    assert "zebra" in submission.warnings[0]
