"""Requests from many threads: one thread draws them together, each gets its own picture, error or cancellation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latentrt import Pipeline, Request
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError, InputError, NanPictureError
from latentrt.engines.fake_backend import FakeEngine
from latentrt.engines.tensor import Feeds, blank_feeds
from latentrt.runtime.loop import Step
from latentrt.runtime.submission import Submission
from latentrt.runtime.turn import Turn

OPTIONS = [
    {"prompt": "a red star", "num_inference_steps": 6, "seed": 1},
    {"prompt": "a white circle", "num_inference_steps": 3, "seed": 2, "guidance_scale": 1.0, "sampler": "ddim"},
    {"prompt": "a blue cross", "num_inference_steps": 5, "seed": 3, "sampler": "euler_ancestral"},
    {"prompt": "a star", "num_inference_steps": 4, "seed": 4, "width": 96, "sampler": "heun"},
    {"prompt": None, "num_inference_steps": 4, "seed": 5, "num_images_per_prompt": 2},
]


@pytest.fixture
def pipe(demo_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.open(demo_bundle, engine="fake") as opened:
        yield opened


class Gate:
    """A listener that stops the worker in the first step of a request until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, step: Step) -> None:
        self.reached.set()
        assert self.opened.wait(30)


def rows_of(pipe: Pipeline, component: str = "unet") -> list[int]:
    engine = pipe.engines[component]
    assert isinstance(engine, FakeEngine)
    return engine.rows


def held_back(pipe: Pipeline, wanted: list[dict[str, Any]]) -> list[Submission]:
    """Submissions that the worker, which is busy meanwhile, finds all at once; they are let go."""
    gate = Gate()
    first = pipe.submit("a star", num_inference_steps=1, on_step=gate)
    assert gate.reached.wait(30)
    submissions = [pipe.submit(**options) for options in wanted]
    gate.opened.set()
    first.result(30)
    return submissions


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


def test_progress_is_told_step_by_step(pipe: Pipeline) -> None:
    steps: list[Step] = []
    submission = pipe.submit("a star", num_inference_steps=5, sampler="pndm", on_step=steps.append)
    submission.result(30)
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert (submission.steps_done, submission.steps_total) == (5, 5)
    assert submission.done()
    assert not submission.running()


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


def test_words_that_are_cut_are_told(pipe: Pipeline) -> None:
    submission = pipe.submit("a red star " * 30 + "zebra", num_inference_steps=1)
    submission.result(30)
    assert "zebra" in submission.warnings[0]
