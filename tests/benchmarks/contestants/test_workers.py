"""PyTorch's and latentrt's own workers, in this interpreter, on the demo model: the same noise, the same picture."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latentrt.benchmarks.contestants.environments import environment, start
from latentrt.benchmarks.contestants.models import model_for
from latentrt.benchmarks.contestants.registry import contestant
from latentrt.benchmarks.contestants.remote import Refused, Remote
from latentrt.benchmarks.demo_model import CHECKPOINT
from latentrt.engines.bundle import Bundle
from latentrt.engines.golden import golden_cases
from latentrt.runtime.noise import TorchCpuNoise

SECONDS = 120
SEEDS = [3, 4]
OPTIONS = {
    "prompts": ["a large red circle on a blue background", "a small yellow star on a black background"],
    "seeds": SEEDS,
    "negative_prompt": "green",
    "num_inference_steps": 4,
    "guidance_scale": 7.5,
    "width": 96,
    "height": 128,
    "steps": True,
}
Arrays = dict[str, NDArray[Any]]


class Asker:
    """A contestant that is open."""

    def __init__(self, name: str, bundle: Path, work: Path) -> None:
        entry = contestant(name)
        given = Path(sys.executable) if entry.environment == "torch" else None
        python, _ = environment(entry, work, given, print)
        model = model_for(entry, python, bundle, CHECKPOINT / "demo.safetensors", work, SECONDS)
        self._kept = work / "kept.npz"
        self.remote = start(entry, python, work / f"{name.replace(':', '-')}.log")
        self.opened = self.remote.ask(SECONDS, do="open", model=str(model), options=entry.options)
        self.clocked: dict[str, Any] = {}

    def draw(self, sampler: str, **changed: Any) -> Arrays:
        self.clocked = self.remote.ask(
            SECONDS, do="draw", keep=str(self._kept), **OPTIONS | {"sampler": sampler} | changed
        )
        return self._read()

    def component(self, name: str, feeds: Arrays) -> Arrays:
        fed = self._kept.with_name("feeds.npz")
        np.savez(fed, **feeds)
        seconds = self.remote.ask(SECONDS, do="component", name=name, feeds=str(fed), calls=2, keep=str(self._kept))
        assert len(seconds) == 2
        assert min(seconds) > 0
        return self._read()

    def _read(self) -> Arrays:
        with np.load(self._kept) as file:
            return dict(file)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def noise(work: Path) -> str:
    """The start noise of both pictures: what torch's CPU generator draws from their seeds."""
    file = work / "noise.npy"
    np.save(file, np.concatenate([TorchCpuNoise(seed).normal((1, 4, 16, 12)) for seed in SEEDS]))
    return str(file)


@pytest.fixture(scope="module")
def torch_fp32(demo_bundle: Path, work: Path) -> Iterator[Asker]:
    asker = Asker("torch", demo_bundle, work)
    yield asker
    asker.remote.close()


@pytest.fixture(scope="module")
def ours(demo_bundle: Path, work: Path) -> Iterator[Asker]:
    asker = Asker("latentrt:onnxruntime", demo_bundle, work)
    yield asker
    asker.remote.close()


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m"])
def test_the_same_noise_gives_the_same_pictures_step_by_step(
    torch_fp32: Asker, ours: Asker, noise: str, sampler: str
) -> None:
    expected, found = torch_fp32.draw(sampler, latents=noise), ours.draw(sampler, latents=noise)
    assert expected["steps"].shape == found["steps"].shape == (4, 2, 4, 16, 12)
    for asker, drawn in ((torch_fp32, expected), (ours, found)):
        assert np.array_equal(drawn["steps"][-1], drawn["latents"])
        calls = {name: len(seconds) for name, seconds in asker.clocked["components"].items()}
        assert calls["unet"] == 4  # both pictures share them
        assert sum(map(sum, asker.clocked["components"].values())) < asker.clocked["prompt to PNG bytes"]
        assert asker.clocked["denoise+decode"] < asker.clocked["prompt to PNG bytes"]
    for step, reference in zip(found["steps"], expected["steps"], strict=True):
        assert relative(step, reference) < 1e-4
    assert found["images"].shape == (2, 128, 96, 3)
    assert np.abs(found["images"].astype(int) - expected["images"].astype(int)).max() <= 1
    assert (found["images"][0] != found["images"][1]).any()


def test_without_noise_both_draw_that_of_the_seeds(torch_fp32: Asker, ours: Asker, noise: str) -> None:
    given = torch_fp32.draw("euler", latents=noise, steps=False)
    assert "steps" not in given
    for asker in (torch_fp32, ours):
        assert asker.opened["torch noise"]
        assert relative(asker.draw("euler")["latents"], given["latents"]) < 1e-4


def test_both_answer_the_recorded_calls(torch_fp32: Asker, ours: Asker, demo_bundle: Path) -> None:
    bundle = Bundle.open(demo_bundle)
    for role, name, output in (("unet", "unet", "out_sample"), ("vae_decoder", "vae_decoder.kl-f8", "sample")):
        case = golden_cases(bundle, name)[0]
        for asker in (torch_fp32, ours):
            assert relative(asker.component(role, case.inputs)[output], case.outputs[output]) < 1e-4
    ids = np.full((1, 77), 49407, np.int64)
    ids[0, :3] = 49406, 320, 1579
    texts = [asker.component("text_encoder", {"input_ids": ids})["last_hidden_state"] for asker in (torch_fp32, ours)]
    assert relative(texts[1], texts[0]) < 1e-5


def test_clients_are_served_together_and_pictures_are_drawn_afterwards(ours: Asker, noise: str) -> None:
    before = ours.draw("euler", latents=noise)["images"]
    one = OPTIONS | {"sampler": "euler", "prompts": ["a red star"], "seeds": [5], "steps": False}
    found = ours.remote.ask(SECONDS, do="load", clients=3, asked=[one] * 5)
    assert len(found["latencies"]) == 5
    assert sum(found["latencies"]) > found["seconds"]  # some were drawn at the same time
    assert np.array_equal(ours.draw("euler", latents=noise)["images"], before)


def test_bf16_is_close_and_not_equal(torch_fp32: Asker, demo_bundle: Path, work: Path, noise: str) -> None:
    expected = torch_fp32.draw("euler", latents=noise)
    asker = Asker("torch-bf16", demo_bundle, work)
    try:
        found = asker.draw("euler", latents=noise)
    finally:
        asker.remote.close()
    assert 1e-4 < relative(found["latents"], expected["latents"]) < 0.1


def test_a_sampler_that_nobody_has_is_refused_by_name(torch_fp32: Asker, ours: Asker) -> None:
    for asker in (torch_fp32, ours):
        with pytest.raises(Refused, match=r"unknown sampler 'eulr'.*known: .*euler"):
            asker.draw("eulr")


def test_a_library_that_is_missing_is_the_reason(tmp_path: Path) -> None:
    remote: Remote = start(contestant("optimum-onnx"), Path(sys.executable), tmp_path / "log")
    with pytest.raises(
        Refused, match=r"^its process ended with code 1: ModuleNotFoundError: No module named 'optimum'"
    ):
        remote.ask(SECONDS, do="open", model="nowhere", options={})
