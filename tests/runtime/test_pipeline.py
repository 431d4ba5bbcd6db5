"""The pipeline on the demo bundle: requests together, step by step, cancelled, failing, and what a picture carries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from latentrt import Pipeline, Request
from latentrt.engines.errors import BundleError, EngineError, InputError
from latentrt.engines.manifest import FILE_NAME, decoder_component
from latentrt.runtime.drawing import Drawing
from latentrt.runtime.loop import Step
from latentrt.runtime.picture import read_facts, to_image
from latentrt.runtime.pipeline import PromptWarning

# (joins before this round, request): lengths, guidance, samplers and sizes all differ
REQUESTS = [
    (0, Request(prompt="a large red circle on a blue background", num_inference_steps=9, seed=1)),
    (0, Request(prompt="a white star", num_inference_steps=4, guidance_scale=1.0, seed=2, sampler="ddim")),
    (2, Request(prompt="a green cross", num_inference_steps=6, guidance_scale=3.0, seed=3, sampler="euler_ancestral")),
    (3, Request(prompt="", num_inference_steps=5, seed=4, sampler="pndm", num_images_per_prompt=2)),
    (3, Request(num_inference_steps=4, seed=6, sampler="heun")),
    (4, Request(prompt="a star", num_inference_steps=5, seed=7, sampler="dpmpp_sde", guidance_interval=(0.3, 5.0))),
    (
        5,
        Request(prompt="a small square", num_inference_steps=7, seed=5, sampler="dpmpp_2m", spacing="karras", width=96),
    ),
]


@pytest.fixture(scope="module")
def pipeline(demo_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.open(demo_bundle) as opened:
        yield opened


@pytest.mark.parametrize("engine", ["fake", "onnxruntime"])
def test_requests_that_join_and_leave_at_any_step_draw_what_they_draw_alone(demo_bundle: Path, engine: str) -> None:
    with Pipeline.open(demo_bundle, engine=engine, max_rows=6) as pipe:
        alone = [pipe.generate(**options_of(request)).latents for _, request in REQUESTS]
        waiting, jobs, rounds = list(REQUESTS), [], 0
        while waiting or any(not job.done for job in jobs):
            while waiting and waiting[0][0] <= rounds:
                jobs.append(pipe.start(waiting.pop(0)[1]).job)
            pipe.step()
            rounds += 1
        for job, expected in zip(jobs, alone, strict=True):
            np.testing.assert_array_equal(job.latents, expected)


def options_of(request: Request) -> dict[str, object]:
    return {name: getattr(request, name) for name in request.__dataclass_fields__}


def test_one_requests_failure_ends_that_request_alone(demo_bundle: Path) -> None:
    def fails(step: Step) -> None:
        if step.index == 1:
            raise ValueError("the listener is broken")

    request = Request(prompt="a red star", num_inference_steps=4)
    with Pipeline.open(demo_bundle, engine="fake") as pipe:
        alone = pipe.generate("a red star", num_inference_steps=4).latents
        good, bad = pipe.start(request), pipe.start(request, fails)
        while pipe.step():
            pass
        np.testing.assert_array_equal(good.job.latents, alone)
        with pytest.raises(ValueError, match="the listener is broken"):
            pipe.finish(bad)


def test_an_engines_failure_reaches_the_caller(demo_bundle: Path) -> None:
    with Pipeline.open(demo_bundle, engine="fake") as pipe:
        stream = pipe.stream("a red star", num_inference_steps=3)
        pipe.engines["unet"].close()
        with pytest.raises(EngineError, match="closed"):
            stream.result()


def test_stream_yields_each_step_with_its_noise_level_and_preview(pipeline: Pipeline) -> None:
    stream = pipeline.stream("a blue diamond on a white background", num_inference_steps=5, sampler="pndm", seed=9)
    steps = list(stream)
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert {step.total for step in steps} == {5}
    assert all(a.sigma > b.sigma for a, b in pairwise(steps))
    assert all(step.denoised.shape == (1, 4, 16, 16) and step.denoised.dtype == np.float32 for step in steps)
    expected = pipeline.generate("a blue diamond on a white background", num_inference_steps=5, sampler="pndm", seed=9)
    np.testing.assert_array_equal(stream.result().latents, expected.latents)


def test_streams_side_by_side_lose_no_step(pipeline: Pipeline) -> None:
    first = pipeline.stream("a red star", num_inference_steps=3)
    second = pipeline.stream("a blue star", num_inference_steps=4)
    assert [step.index for step in first] == [0, 1, 2]
    assert [step.index for step in second] == [0, 1, 2, 3]


def test_a_cancelled_request_leaves_the_loop(pipeline: Pipeline) -> None:
    stream = pipeline.stream("a red star", num_inference_steps=50)
    next(iter(stream))
    stream.cancel()
    assert pipeline.step() == []
    with pytest.raises(EngineError, match="cancelled"):
        stream.result()


def test_a_listener_may_cancel_another_request(pipeline: Pipeline) -> None:
    drawings: list[Drawing] = []
    drawings.append(pipeline.start(Request(prompt="a star"), on_step=lambda _: drawings[1].job.cancel()))
    drawings.append(pipeline.start(Request(prompt="a cross")))
    while pipeline.step():
        pass
    assert pipeline.finish(drawings[0]).images
    assert drawings[1].job.latents is None


def test_latents_given_replace_the_seeds_noise(pipeline: Pipeline) -> None:
    from latentrt.runtime.noise import TorchCpuNoise

    noise = TorchCpuNoise(5).normal((1, 4, 16, 16))
    given = pipeline.generate("a red star", num_inference_steps=3, latents=noise)
    seeded = pipeline.generate("a red star", num_inference_steps=3, seed=5)
    np.testing.assert_array_equal(given.latents, seeded.latents)
    assert given.facts[0]["seed"] == "0, start latents given"


def test_a_saved_picture_says_how_it_was_made(pipeline: Pipeline, tmp_path: Path) -> None:
    prompt = "ein roter Kreis: größer, 大きい 🔴"
    result = pipeline.generate(prompt, negative_prompt="no", num_inference_steps=2, seed=7, num_images_per_prompt=2)
    result.images[1].save(tmp_path / "out.png")
    facts = read_facts(tmp_path / "out.png")
    assert facts == result.facts[1]
    wanted = {
        "prompt": prompt,
        "negative_prompt": "no",
        "seed": "7",
        "steps": "2",
        "sampler": "euler",
        "image": "2 of 2",
    }
    assert wanted.items() <= facts.items()
    assert facts["bundle"] == pipeline.bundle.hash
    assert facts["engine"].startswith("onnxruntime unet=")


def test_each_decoder_gives_its_own_picture_of_the_same_latents(pipeline: Pipeline) -> None:
    results = [
        pipeline.generate("a red star", num_inference_steps=2, decoder=name)
        for name in pipeline.bundle.manifest.decoders
    ]
    assert len(results) == 3
    for result in results[1:]:
        np.testing.assert_array_equal(result.latents, results[0].latents)
        assert np.any(np.asarray(result.images[0]) != np.asarray(results[0].images[0]))


def test_a_long_prompt_warns_with_the_words_that_are_cut(pipeline: Pipeline) -> None:
    with pytest.warns(PromptWarning, match="zebra"):
        pipeline.generate("a red star " * 30 + "zebra", num_inference_steps=1)


def test_nan_is_an_error_and_never_a_black_picture() -> None:
    decoded = np.zeros((3, 8, 8), np.float32)
    decoded[1, 2, 3] = np.nan
    with pytest.raises(EngineError, match="NaN"):
        to_image(decoded, {})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 100}, "multiple of 32.*got 100: try 96 or 128"),
        ({"height": 7}, "multiple of 32"),
        ({"width": 0}, "width is a number of pixels"),
        ({"width": 10**6}, "width is a number of pixels"),
        ({"num_inference_steps": 0}, "num_inference_steps is a whole number from 1"),
        ({"num_inference_steps": 2.5}, "num_inference_steps"),
        ({"guidance_scale": float("nan")}, "guidance_scale is a finite number"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"seed": 2**64}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"sampler": "eulr"}, "did you mean 'euler'"),
        ({"sampler": "ddim", "spacing": "karras"}, "takes no karras spacing"),
        ({"sampler": "euler", "eta": 0.5}, "takes no eta; these do: ddim, tcd"),
        ({"sampler": "pndm", "sigmas": [14, 0]}, "takes no list of sigmas"),
        ({"timesteps": [10, 20]}, "each below the one before"),
        ({"guidance_interval": (5, 1)}, "guidance_interval is two noise levels"),
        ({"guidance_rescale": -1}, "guidance_rescale is a number from 0 to 1"),
        ({"decoder": "ft-mes"}, "did you mean 'ft-mse'"),
        ({"latents": np.zeros((1, 4, 8, 8), np.float32)}, "latents are start noise, float32"),
        ({"latents": np.full((1, 4, 16, 16), np.inf, np.float32)}, "NaN or infinity"),
        ({"negative_prompt": None}, "negative_prompt: expected text"),
        ({"negative_prompt": "\udcff", "guidance_scale": 1.0}, "negative_prompt: character 1"),
    ],
)
def test_bad_options_are_named(pipeline: Pipeline, options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        pipeline.generate("a red star", **options)


@pytest.fixture
def rows(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each UNet call from now on."""
    counts: list[int] = []
    engine, unet = type(pipeline.engines["unet"]), pipeline.engines["unet"]
    run = engine.run

    def counted(self: object, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self is unet:
            counts.append(len(feeds["sample"]))
        return run(self, feeds)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "run", counted)
    return counts


def test_without_a_prompt_the_picture_is_unconditional_and_costs_one_row(pipeline: Pipeline, rows: list[int]) -> None:
    nothing = pipeline.generate(num_inference_steps=3, seed=4)
    assert rows == [1, 1, 1]
    assert nothing.facts[0]["unconditional"] == "yes"
    assert not {"prompt", "negative_prompt", "guidance_scale"} & nothing.facts[0].keys()
    empty = pipeline.generate("", num_inference_steps=3, seed=4, guidance_scale=1.0)
    np.testing.assert_array_equal(nothing.latents, empty.latents)
    with pytest.raises(InputError, match="give prompt='' to guide by it alone"):
        pipeline.generate(negative_prompt="green")


def test_guidance_outside_of_its_interval_costs_one_row(pipeline: Pipeline, rows: list[int]) -> None:
    stream = pipeline.stream("a red star", num_inference_steps=6, guidance_interval=(0.5, 5.0), guidance_rescale=0.7)
    sigmas = [step.sigma for step in stream]
    assert rows == [2 if 0.5 < sigma <= 5.0 else 1 for sigma in sigmas]
    assert {1, 2} == set(rows)
    facts = stream.result().facts[0]
    assert facts["guidance_interval"] == "0.5,5.0"
    assert facts["guidance_rescale"] == "0.7"


def test_an_interval_of_everything_is_plain_guidance(pipeline: Pipeline) -> None:
    options = {"num_inference_steps": 3, "seed": 2, "sampler": "heun"}
    plain = pipeline.generate("a red star", **options)
    wide = pipeline.generate("a red star", guidance_interval=(0.0, float("inf")), **options)
    np.testing.assert_array_equal(plain.latents, wide.latents)
    none = pipeline.generate("a red star", guidance_interval=(100.0, 200.0), **options)
    off = pipeline.generate("a red star", guidance_scale=1.0, **options)
    np.testing.assert_array_equal(none.latents, off.latents)


def test_a_listed_path_sets_the_number_of_steps(pipeline: Pipeline) -> None:
    stream = pipeline.stream("a red star", timesteps=[999, 700, 300], sampler="ddim", eta=0.5)
    assert [(step.index, step.total) for step in stream] == [(0, 3), (1, 3), (2, 3)]
    facts = stream.result().facts[0]
    assert (facts["steps"], facts["timesteps"], facts["eta"]) == ("3", "999,700,300", "0.5")
    listed = pipeline.generate("a red star", sigmas=(14.0, 3.0, 0.5, 0.0))
    assert listed.facts[0]["sigmas"] == "14.0,3.0,0.5,0.0"


def test_a_bundle_without_a_decoder_is_named(demo_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(demo_bundle, copy)
    (copy / "onnx" / f"{decoder_component('ft-mse')}.onnx").unlink()
    with Pipeline.open(copy) as pipe, pytest.raises(BundleError, match=r"vae_decoder\.ft-mse\.onnx is missing"):
        pipe.generate("a red star", num_inference_steps=1, decoder="ft-mse")


def test_generating_loads_no_torch(demo_bundle: Path) -> None:
    code = (
        "import sys\n"
        "from latentrt import Pipeline\n"
        f"with Pipeline.open({str(demo_bundle)!r}) as pipe: pipe.generate('a red star', num_inference_steps=1)\n"
        "sys.exit(', '.join({'torch', 'transformers', 'diffusers', 'onnx'} & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _with_unet_inputs(demo_bundle: Path, folder: Path, change: Callable[[list[dict[str, object]]], object]) -> Path:
    """The demo bundle with other inputs stated for its UNet: enough for the fake engine."""
    shutil.copytree(demo_bundle, folder, copy_function=os.link)
    content = json.loads((folder / FILE_NAME).read_text())
    change(content["components"]["unet"]["inputs"])
    (folder / FILE_NAME).unlink()
    (folder / FILE_NAME).write_text(json.dumps(content))
    return folder


def test_a_distilled_unet_takes_one_row_and_no_negative_prompt(demo_bundle: Path, tmp_path: Path) -> None:
    told = {"name": "timestep_cond", "dtype": "float32", "shape": ["rows", 256]}
    folder = _with_unet_inputs(demo_bundle, tmp_path / "lcm", lambda inputs: inputs.append(told))
    with Pipeline.open(folder, engine="fake") as pipe:
        drawn = [
            pipe.generate("a red star", num_inference_steps=3, negative_prompt=negative, guidance_scale=scale).latents
            for negative, scale in (("", 7.5), ("green", 7.5), ("", 2.0))
        ]
        assert pipe.engines["unet"].rows == [1] * 9  # type: ignore[attr-defined] # the fake engine counts
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-3


def test_an_inpainting_bundle_draws_nothing_from_text(demo_bundle: Path, tmp_path: Path) -> None:
    folder = _with_unet_inputs(demo_bundle, tmp_path / "b", lambda inputs: inputs[0]["shape"].__setitem__(1, 9))  # type: ignore[attr-defined]
    with Pipeline.open(folder, engine="fake") as pipe, pytest.raises(InputError, match=r"takes 9 channels.*inpainting"):
        pipe.generate("a red star")
