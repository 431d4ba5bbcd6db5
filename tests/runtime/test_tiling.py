"""Tiles: seams that do not show, calls of one size, and how far the demo model's tiled pictures are from whole ones."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentrt import Pipeline
from latentrt.cli import run
from latentrt.engines.errors import InputError
from latentrt.engines.metrics import difference
from latentrt.runtime.picture import read_facts
from latentrt.runtime.tiling import _starts, decode_tiled


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(8, 40), st.integers(0, 2**32 - 1))
def test_of_a_local_decoder_tiles_are_the_whole(height: int, width: int, tile: int, seed: int) -> None:
    latents = np.random.default_rng(seed).standard_normal((1, 4, height, width)).astype(np.float32)
    shapes = set()

    def decode(part: np.ndarray) -> np.ndarray:
        shapes.add(part.shape[2:])
        return part[:, :3].repeat(2, axis=2).repeat(2, axis=3)

    tiled = decode_tiled(decode, latents, tile)
    assert tiled.dtype == np.float32
    np.testing.assert_allclose(tiled, decode(latents), rtol=0, atol=2e-6)
    assert (min(height, tile), min(width, tile)) in shapes
    assert len(shapes - {(height, width)}) <= 1  # one profile holds every tile


@given(st.integers(1, 600), st.integers(8, 512))
def test_tiles_cover_a_side_and_share_a_quarter_with_their_neighbours(side: int, tile: int) -> None:
    starts = _starts(side, tile)
    assert starts[0] == 0
    assert starts[-1] == max(0, side - tile)
    assert all(0 < after - before <= tile - tile // 4 for before, after in pairwise(starts))


def test_a_picture_in_tiles_is_near_the_whole_one_and_says_so(demo_bundle: Path) -> None:
    """Measured 32 dB over three pictures of this size (benchmarks/results/tiling.json): the decoder is not local."""
    options = {"num_inference_steps": 6, "seed": 1, "width": 256, "height": 256, "sampler": "dpmpp_2m"}
    with Pipeline.open(demo_bundle) as whole, Pipeline.open(demo_bundle, tile=16) as tiled:
        expected = whole.generate("a white star on a green background", **options)
        drawn = tiled.generate("a white star on a green background", **options)
        np.testing.assert_array_equal(drawn.latents, expected.latents)
        pictures = (np.asarray(result.images[0], np.float32) for result in (drawn, expected))
        found = difference(*pictures, data_range=255)
        assert 25 < found.psnr < 60
        assert (drawn.facts[0]["tile"], "tile" in expected.facts[0]) == ("16", False)
        small = {**options, "width": 128, "height": 128}
        fits = tiled.generate("a star", **small)
        assert "tile" not in fits.facts[0]
        np.testing.assert_array_equal(fits.images[0], whole.generate("a star", **small).images[0])


def test_the_option_reaches_the_picture(demo_bundle: Path, tmp_path: Path) -> None:
    draw = ["generate", str(demo_bundle), "a star", "--steps", "1", "--tile", "8", "-o", str(tmp_path / "a.png")]
    assert run(draw) == 0
    assert read_facts(tmp_path / "a.png")["tile"] == "8"
    with pytest.raises(InputError, match="tile is a whole number from 8 to 512; got 4"):
        Pipeline.open(demo_bundle, tile=4)
