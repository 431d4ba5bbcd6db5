"""The demo model's adherence: the share of pictures, whoever drew them, that show what their captions ask for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.errors import InputError
from latentrt.export.demo.scenes import Scene, held_out_scenes, plain_caption

from ..scene_checker import Sighting, look

ADHERENCE = "adherence"  # its key among a contestant's figures
GUIDANCE, STEPS, SAMPLER = 3.0, 20, "dpmpp_2m"  # what the committed shares were drawn with; seed = index


def held_out(count: int | None = None) -> list[Scene]:
    """The one-shape scenes that training never shows, or a sample of so many, evenly over shapes, colours and sizes.

    `plain_caption` of `export/demo/scenes.py` is the prompt of each.

    Raises:
        InputError: there are not so many.
    """
    scenes = held_out_scenes()
    if count is None:
        return scenes
    if not 1 <= count <= len(scenes):
        raise InputError(f"adherence is of 1 to {len(scenes)} captions, which training never shows; got {count}")
    return scenes[:: len(scenes) // count][:count]


def scenes_of(prompts: Sequence[str]) -> list[Scene] | None:
    """The scenes that prompts are captions of; None where one is none of those that training never showed."""
    by_caption = {plain_caption(scene): scene for scene in held_out()}
    return [by_caption[prompt] for prompt in prompts] if all(prompt in by_caption for prompt in prompts) else None


def adherence(pictures: Iterable[NDArray[np.uint8]], scenes: Sequence[Scene]) -> dict[str, float]:
    """The share of pictures, (height, width, 3) uint8, that show their scene, and the share by each of its facts.

    The keys are "all" (background, shape and colour right), "background", "shape" and "colour".
    """
    found = [_facts(scene, look(picture)) for picture, scene in zip(pictures, scenes, strict=True)]
    return {fact: float(np.mean([one[fact] for one in found])) for fact in found[0]}


def _facts(scene: Scene, seen: Sighting) -> dict[str, bool]:
    thing = scene.things[0]
    facts = {
        "background": seen.background == scene.background,
        "shape": seen.shape == thing.shape,
        "colour": seen.colour == thing.colour,
    }
    return {"all": all(facts.values()), **facts}
