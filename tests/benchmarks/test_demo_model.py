"""A sample of the proof that the demo model learned; `python -m latentrt.benchmarks.demo_model` gives the whole."""

from __future__ import annotations

import json
from pathlib import Path

from latentrt.benchmarks.demo_model import CHECKPOINT, GUIDANCE, VAES, adherence, checkpoint_hashes
from latentrt.benchmarks.machine import RESULTS


def test_a_sample_of_held_out_captions_is_drawn_as_asked(demo_bundle: Path) -> None:
    shares = adherence(demo_bundle, GUIDANCE, limit=24)
    assert shares["captions"] == 24
    assert shares["all"] >= 0.7  # 0.9 of all 207; three standard deviations of a sample of 24 below that
    assert shares["background"] >= 0.8


def test_the_committed_proof_reaches_what_it_must() -> None:
    figures = json.loads((RESULTS / "demo-model.json").read_text())["figures"]
    assert figures["checkpoint, SHA-256"] == checkpoint_hashes(), "the weights have changed: run 'make bench'"
    guided = figures[f"ema weights, guidance {GUIDANCE:g}"]
    assert guided["captions"] >= 200
    assert guided["all"] >= 0.9
    assert figures["ema weights, no guidance"]["all"] < guided["all"] - 0.1
    assert figures["reconstruction PSNR, dB"]["ft-mse"] > figures["reconstruction PSNR, dB"]["kl-f8"]


def test_the_committed_overheads_are_within_their_limits() -> None:
    figures = json.loads((RESULTS / "overhead.json").read_text())["figures"]
    assert figures["import, s"] < 0.4
    assert all(loop["median"] <= 1.0 for loop in figures["loop, ms per step"].values())


def test_the_checkpoint_is_small() -> None:
    files = [CHECKPOINT / "demo.safetensors", *VAES.values()]
    assert sum(file.stat().st_size for file in files) <= 48e6
