"""What a whole picture costs beside its engines is counted, and engines are let go as they were."""

from __future__ import annotations

from pathlib import Path

from latentrt.benchmarks.drawn import draw
from latentrt.benchmarks.whole_picture import measure
from latentrt.runtime.pipeline import Pipeline


def test_a_picture_takes_longer_than_its_engine_calls(demo_bundle: Path) -> None:
    figures = measure(demo_bundle, "onnxruntime", side=128, steps=3)
    assert figures["engine calls"] == {"text_encoder": 1, "unet": 3, "vae_decoder.kl-f8": 1}
    assert figures["picture over engine calls"] > 1
    spent = figures["engine calls, s"]
    assert all(seconds > 0 for seconds in spent.values())
    assert sum(spent.values()) < figures["picture, s"]


def test_clocks_are_taken_off_again(demo_bundle: Path) -> None:
    with Pipeline.open(demo_bundle) as pipeline:
        drawn = draw(pipeline, "a red star", num_inference_steps=2)
        assert drawn.loop < drawn.whole
        assert drawn.calls["unet"] == 2
        assert "run" not in vars(pipeline.engines["unet"])
