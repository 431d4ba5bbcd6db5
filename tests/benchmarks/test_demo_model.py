"""A sample of the proof that the demo model learned; `python -m latentrt.benchmarks.demo_model` gives the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latentrt.benchmarks.demo_model import CHECKPOINT, VAES, adherence, checkpoint_hashes
from latentrt.benchmarks.machine import RESULTS
from latentrt.benchmarks.quality.adherence import GUIDANCE


def test_a_sample_of_held_out_captions_is_drawn_as_asked(demo_bundle: Path) -> None:
    shares = adherence(demo_bundle, GUIDANCE, limit=24)
    assert shares["captions"] == 24
    assert shares["all"] >= 0.8  # 0.92 of all 207, less two standard deviations of a sample of 24
    assert shares["background"] >= 0.9


def figures() -> dict[str, Any]:
    """The committed proof, if it is of the weights that are here."""
    found: dict[str, Any] = json.loads((RESULTS / "demo-model.json").read_text())["figures"]
    assert found["checkpoint, SHA-256"] == checkpoint_hashes(), "the weights have changed: run 'make bench'"
    return found


def test_the_committed_proof_shows_that_it_learned() -> None:
    proof = figures()
    guided, unguided = proof[f"ema weights, guidance {GUIDANCE:g}"], proof["ema weights, no guidance"]
    assert guided["captions"] >= 200
    assert guided["all"] >= 0.9
    assert unguided["all"] < guided["all"] - 0.1
    assert proof["reconstruction PSNR, dB"]["ft-mse"] > proof["reconstruction PSNR, dB"]["kl-f8"]


def test_the_committed_overheads_are_within_their_limits() -> None:
    figures = json.loads((RESULTS / "overhead.json").read_text())["figures"]
    assert figures["import, s"] < 0.4
    assert all(loop["median"] <= 1.0 for loop in figures["loop, ms per step"].values())


def test_the_checkpoint_is_small() -> None:
    files = [CHECKPOINT / "demo.safetensors", *VAES.values()]
    assert sum(file.stat().st_size for file in files) <= 48e6
