"""The checker finds what was drawn, through noise and blur, and does not find what was not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from latentrt.benchmarks.scene_checker import look
from latentrt.export.demo.scenes import COLOURS, SHAPES, Scene, Thing, draw, held_out_scenes


def picture(scene: Scene, seed: int, noise: float = 0.0, blur: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = (draw(scene, rng).transpose(1, 2, 0) + 1) * 127.5  # (h, w, 3)
    image = ndimage.gaussian_filter(image, (blur, blur, 0)) + rng.normal(0, noise, image.shape)
    return np.clip(image, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize(("noise", "blur"), [(0, 0), (8, 0), (4, 1)])
def test_it_finds_every_held_out_scene(noise: float, blur: float) -> None:
    wrong = []
    for seed, scene in enumerate(held_out_scenes()):
        seen, thing = look(picture(scene, seed, noise, blur)), scene.things[0]
        if (seen.background, seen.shape, seen.colour) != (scene.background, thing.shape, thing.colour):
            wrong.append((scene, seen))
    assert len(wrong) <= 2, wrong  # of 207


def test_it_tells_shapes_and_colours_apart() -> None:
    for shape in SHAPES:
        assert look(picture(Scene("white", (Thing(shape, "red", "large"),)), 0)).shape == shape
    for colour in COLOURS:
        if colour != "green":
            assert look(picture(Scene("green", (Thing("circle", colour, "medium"),)), 0)).colour == colour


def test_an_empty_picture_and_noise_hold_no_shape() -> None:
    empty = np.full((128, 128, 3), 245, np.uint8)
    assert look(empty).shape is None
    assert look(empty).background == "white"
    assert look(np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)).shape is None


def test_two_things_are_not_one() -> None:
    scene = Scene("white", (Thing("circle", "red", "medium"), Thing("circle", "red", "medium")), "left of")
    assert look(picture(scene, 0)).shape is None


def test_half_a_disc_and_a_blob_are_no_shape() -> None:
    image = picture(Scene("white", (Thing("circle", "red", "large"),)), 0)
    yy, xx = np.mgrid[0:128, 0:128]
    image[(yy + xx) % 23 < 9] = 245  # stripes torn out of it
    assert look(image).shape is None
