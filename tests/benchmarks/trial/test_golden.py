"""A bundle's recorded answers are a reference: what latentrt draws from the same noise is next to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latentrt.benchmarks.trial.accuracy import compare
from latentrt.benchmarks.trial.golden import Golden, golden
from latentrt.benchmarks.trial.kept import Kept, read_arrays
from latentrt.engines.bundle import Bundle
from latentrt.engines.manifest import TEXT_ENCODER, UNET
from latentrt.runtime.pipeline import Pipeline


def drawn(bundle: Path, found: Golden, folder: Path) -> Kept:
    """The pictures that latentrt draws when it is asked for the same."""
    assert found.noise is not None
    files = []
    with Pipeline.open(bundle) as pipeline:
        for asked in found.asked:
            result = pipeline.generate(
                asked.prompt,
                negative_prompt=asked.negative_prompt,
                num_inference_steps=asked.steps,
                guidance_scale=asked.guidance_scale,
                sampler=asked.sampler,
                latents=found.noise,
            )
            files.append(folder / f"{asked.name}.npz")
            np.savez(files[-1], images=np.asarray(result.images[0])[None], latents=result.latents)
    return Kept("latentrt", tuple(files))


def test_what_the_runtime_draws_is_next_to_what_was_recorded(demo_bundle: Path, tmp_path: Path) -> None:
    found = golden(Bundle.open(demo_bundle), tmp_path)
    accuracy = compare(found.kept, drawn(demo_bundle, found, tmp_path))
    assert accuracy.reference == "golden"
    assert accuracy.latents is not None
    assert accuracy.latents["relative L2"].worst < 1e-4  # what `verify` holds fp32 to
    assert accuracy.picture is not None
    assert accuracy.picture["max abs"].worst <= 1
    assert accuracy.steps == ()  # the pipeline was not asked for them
    assert accuracy.note is not None


def test_calls_of_the_networks_come_with_what_peers_can_be_fed(demo_bundle: Path, tmp_path: Path) -> None:
    found = golden(Bundle.open(demo_bundle), tmp_path)
    ids = read_arrays(found.feeds[TEXT_ENCODER])["input_ids"]
    assert (ids.shape, ids.dtype) == ((1, 77), np.int64)
    assert read_arrays(found.kept.components[TEXT_ENCODER])["last_hidden_state"].shape[:2] == (1, 77)
    feeds = read_arrays(found.feeds[UNET])
    assert read_arrays(found.kept.components[UNET])["out_sample"].shape == feeds["sample"].shape == (2, 4, 16, 16)
    assert set(found.feeds) == set(found.kept.components) == {TEXT_ENCODER, UNET, "vae_decoder"}
