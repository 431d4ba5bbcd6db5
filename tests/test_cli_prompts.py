"""Prompts, embeddings and seeds on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latentrt import Pipeline
from latentrt.cli import run
from latentrt.runtime.picture import read_facts

PROMPT = "a (large:1.3) toy circle BREAK on a blue background"


def test_every_word_reaches_the_pipeline(demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Pipeline.open(demo_bundle) as pipe:
        width = pipe.stages.prompts.new_tokens._width
        torch.save({"<style>": torch.ones(2, width) / 9}, tmp_path / "style.bin")
        converted = tmp_path / "style.safetensors"
        assert run(["import-embedding", str(tmp_path / "style.bin"), "-o", str(converted)]) == 0
        assert capfd.readouterr().out == f"{converted} <style> (2 vectors)\n"
        pipe.load_textual_inversion(converted, "toy")
        options = {"seed": 3, "num_images_per_prompt": 2, "noise": "cuda:t4", "seed_per_image": True, "width": 96}
        options |= {"variation_seed": 5, "variation_strength": 0.25, "prompt_syntax": "weighted", "clip_skip": 1}
        expected = pipe.generate(PROMPT, num_inference_steps=2, max_prompt_chunks=2, **options)
    words = ["generate", str(demo_bundle), PROMPT, "--steps", "2", "-n", "2", "-o", str(tmp_path / "out.png")]
    words += ["--seed", "3", "--noise", "cuda:t4", "--seed-per-image", "--variation-seed", "5", "--clip-skip", "1"]
    words += [
        "--variation-strength",
        "0.25",
        "--prompt-syntax",
        "weighted",
        "--max-prompt-chunks",
        "2",
        "--width",
        "96",
    ]
    assert run([*words, "--embedding", f"toy={converted}"]) == 0
    for i, image in enumerate(expected.images):
        file = tmp_path / f"out-{i + 1}.png"
        np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(image))
        assert read_facts(file) == expected.facts[i]
    facts = expected.facts[1]
    assert facts["seed"] == "3"
    assert facts["variation"] == "seed 6, strength 0.25"
    assert facts["textual_inversion"].startswith("toy sha256 ")
    assert (facts["noise"], facts["prompt_syntax"], facts["clip_skip"]) == ("cuda:t4", "weighted", "1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--noise", "gpu"], "unknown noise 'gpu'"),
        (["--prompt-syntax", "weight"], "is not one of"),
        (["--max-prompt-chunks", "99"], "max_prompt_chunks is a whole number from 1 to 32"),
        (["--clip-skip", "9"], "clip_skip is a whole number"),
        (["--variation-strength", "2"], "variation_strength is a number from 0 to 1"),
        (["--embedding", "nowhere.safetensors"], "cannot read nowhere.safetensors"),
        (["--embedding", "<a>=toy.pt"], "latentrt import-embedding toy.pt"),
    ],
)
def test_bad_words_give_one_clear_line(
    words: list[str], said: str, demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = ["-o", str(tmp_path / "out.png")]
    assert run(["generate", str(demo_bundle), "x", "--steps", "1", *out, *words]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert list(tmp_path.iterdir()) == []
