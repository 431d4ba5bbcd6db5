"""Scenes are what their captions say, repeat with their seed, and keep the held-out combinations out."""

from __future__ import annotations

import numpy as np
import pytest

from latentrt.export.demo.scenes import (
    COLOURS,
    RADII,
    SHAPES,
    Scene,
    Thing,
    caption,
    coverage,
    draw,
    held_out_scenes,
    is_held_out,
    plain_caption,
    random_scene,
)


def scenes(seed: int, count: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(count)]


def test_no_training_scene_holds_a_held_out_combination() -> None:
    for scene in scenes(0, 5000):
        assert not any(is_held_out(thing, scene.background) for thing in scene.things)


def test_at_least_200_combinations_are_held_out_and_all_words_are_among_them() -> None:
    held = held_out_scenes()
    assert len(held) == len(set(held)) >= 200
    assert {scene.things[0].shape for scene in held} == set(SHAPES)
    assert {scene.things[0].size for scene in held} == set(RADII)
    assert {scene.things[0].colour for scene in held} == {scene.background for scene in held} == set(COLOURS)


def test_a_seed_draws_the_same_picture_again_in_range() -> None:
    for scene in scenes(1, 50):
        first, second = (draw(scene, np.random.default_rng(5)) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert first.shape == (3, 128, 128)
        assert first.dtype == np.float32
        assert -1 <= first.min() <= first.max() <= 1


def test_a_caption_names_everything_in_the_scene() -> None:
    rng = np.random.default_rng(2)
    for scene in scenes(3, 500):
        words = caption(scene, rng).lower()
        assert scene.background in words
        for thing in scene.things:
            assert f"{thing.colour} {thing.shape}" in words


def test_the_plain_caption() -> None:
    assert (
        plain_caption(Scene("orange", (Thing("star", "red", "large"),))) == "a large red star on an orange background"
    )
    assert plain_caption(Scene("red", (Thing("cross", "orange", "medium"),))) == "an orange cross on a red background"


@pytest.mark.parametrize(
    ("shape", "area"),  # of the unit drawing, by geometry
    [
        ("circle", np.pi),
        ("square", 1.7**2),
        ("diamond", 2 * 1.1**2),
        ("cross", 4 * (2 * 0.33 - 0.33**2)),
        ("triangle", 3 * np.sqrt(3) * 0.55**2),
        ("star", 5 * 1.1**2 * 0.42 * np.sin(np.pi / 5)),
    ],
)
def test_a_shape_covers_the_area_that_its_geometry_gives(shape: str, area: float) -> None:
    radius = 40.0
    assert coverage(shape, 64.3, 60.7, radius).sum() == pytest.approx(area * radius**2, rel=0.01)  # antialiasing
