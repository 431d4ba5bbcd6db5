"""The engine without a library: it counts its calls, answers from all of its inputs, and has nothing to build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import EngineError, InputError
from latentrt.engines.fake_backend import BACKEND, FakeEngine

MakeFeeds = Callable[[str, int, int, int], dict[str, np.ndarray]]


def open_fake(folder: Path, component: str) -> FakeEngine:
    engine = BACKEND.open(Bundle.open(folder), component, None)
    assert isinstance(engine, FakeEngine)
    return engine


def test_calls_and_rows_are_counted(tiny_original: Path, feeds_for: MakeFeeds) -> None:
    engine = open_fake(tiny_original, "unet")
    for rows in (2, 1, 3):
        engine.run(feeds_for("unet", rows, 1, 1))
    with pytest.raises(InputError):
        engine.run({})
    assert engine.rows == [2, 1, 3]
    assert engine.calls == 3


@pytest.mark.parametrize("name", ["sample", "timestep", "encoder_hidden_states"])
def test_every_input_changes_the_prediction(tiny_original: Path, feeds_for: MakeFeeds, name: str) -> None:
    """Else a loop that mixes up rows, times or prompts would pass its tests."""
    engine, feeds = open_fake(tiny_original, "unet"), feeds_for("unet", 2, 1, 1)
    one_row_changed = feeds[name].copy()
    one_row_changed[1] += 1
    before, after = (engine.run(f)["out_sample"] for f in (feeds, feeds | {name: one_row_changed}))
    np.testing.assert_array_equal(before[0], after[0])
    assert (before[1] != after[1]).all()


def test_every_token_changes_the_text_embedding(tiny_original: Path, feeds_for: MakeFeeds) -> None:
    engine, feeds = open_fake(tiny_original, "text_encoder"), feeds_for("text_encoder", 1, 1, 1)
    changed = {"inputs_embeds": feeds["inputs_embeds"] + np.float32(0.1)}
    before, after = (engine.run(f)["last_hidden_state"] for f in (feeds, changed))
    assert (before != after).any(axis=-1).all()


def test_rows_are_independent_bit_for_bit(tiny_original: Path, feeds_for: MakeFeeds) -> None:
    engine, feeds = open_fake(tiny_original, "unet"), feeds_for("unet", 5, 2, 2)
    together = engine.run(feeds)["out_sample"]
    for row in range(5):
        alone = engine.run({key: array[row : row + 1] for key, array in feeds.items()})["out_sample"]
        np.testing.assert_array_equal(alone, together[row : row + 1])


def test_the_picture_shows_the_latent(tiny_original: Path) -> None:
    engine = open_fake(tiny_original, "vae_decoder.kl-f8")
    z = np.zeros((1, 4, 2, 3), np.float32)
    z[0, 1, 1, 2] = 1.0
    picture = engine.run({"latent_sample": z})["sample"]
    expected = np.zeros((1, 3, 16, 24), np.float32)
    expected[0, 1, 8:, 16:] = np.tanh(np.float32(1))
    np.testing.assert_array_equal(picture, expected)


def test_there_is_nothing_to_build(tiny_original: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="the fake engine of unet is not compiled"):
        BACKEND.build(Bundle.open(tiny_original), "unet", tmp_path)
    assert list(tmp_path.iterdir()) == []
