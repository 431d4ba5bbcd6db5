"""Scenes of coloured shapes, drawn by code, and the sentences that describe them.

A scene is one or two flat shapes on a plain background, 128x128 pixels. Every drawing decision (position, exact radius,
exact colour) comes from the caller's random generator, so a seed gives the same data on every machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

SIZE = 128  # pixels on a side
Plane: TypeAlias = NDArray[np.float32]  # (128, 128)

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 220, 50),
    "green": (40, 160, 70),
    "blue": (40, 80, 210),
    "purple": (140, 60, 170),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
RADII: dict[str, tuple[float, float]] = {"small": (13.0, 17.0), "medium": (23.0, 28.0), "large": (37.0, 43.0)}
RELATIONS: dict[str, tuple[int, int]] = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}

HELD_OUT_SHARE = 0.2
_COLOUR_JITTER = 8.0  # of 255: enough that no colour is a constant, too little to change its name


@dataclass(frozen=True)
class Thing:
    """One shape of a scene, by its words."""

    shape: str
    colour: str
    size: str


@dataclass(frozen=True)
class Scene:
    """What a caption states: one thing, or two and how the first stands to the second."""

    background: str
    things: tuple[Thing, ...]
    relation: str | None = None


def is_held_out(thing: Thing, background: str) -> bool:
    """Whether this combination of shape, colour, size and background is kept out of training, always."""
    words = f"{thing.shape} {thing.colour} {thing.size} {background}"
    return hashlib.sha256(words.encode()).digest()[0] < 256 * HELD_OUT_SHARE


def held_out_scenes() -> list[Scene]:
    """Every one-shape scene whose combination training never shows, in a fixed order."""
    return [
        Scene(background, (thing,))
        for shape in SHAPES
        for colour in COLOURS
        for size in RADII
        for background in COLOURS
        if background != colour and is_held_out(thing := Thing(shape, colour, size), background)
    ]


def random_scene(rng: np.random.Generator, *, two_share: float = 0.3) -> Scene:
    """Draw a scene of the training distribution: held-out combinations never appear in it."""
    while True:
        background = str(rng.choice(list(COLOURS)))
        if rng.random() < two_share:
            things = tuple(_random_thing(rng, background, ("small", "medium")) for _ in range(2))
            scene = Scene(background, things, str(rng.choice(list(RELATIONS))))
        else:
            scene = Scene(background, (_random_thing(rng, background, tuple(RADII)),))
        if not any(is_held_out(thing, background) for thing in scene.things):
            return scene


def _random_thing(rng: np.random.Generator, background: str, sizes: tuple[str, ...]) -> Thing:
    colours = [colour for colour in COLOURS if colour != background]
    return Thing(str(rng.choice(SHAPES)), str(rng.choice(colours)), str(rng.choice(sizes)))


def draw(scene: Scene, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a scene, antialiased: (3, 128, 128) float32 in [-1, 1]."""
    image = np.empty((3, SIZE, SIZE), np.float32)
    image[:] = _jittered(scene.background, rng)[:, None, None]
    for thing, (x, y) in zip(scene.things, _centres(scene, rng), strict=True):
        radius = rng.uniform(*RADII[thing.size])
        mask = coverage(thing.shape, x, y, radius)
        image += mask * (_jittered(thing.colour, rng)[:, None, None] - image)
    return image / np.float32(127.5) - np.float32(1.0)


def _jittered(colour: str, rng: np.random.Generator) -> NDArray[np.float32]:
    rgb = np.array(COLOURS[colour]) + rng.uniform(-_COLOUR_JITTER, _COLOUR_JITTER, 3)
    return np.clip(rgb, 0, 255).astype(np.float32)


def _centres(scene: Scene, rng: np.random.Generator) -> list[tuple[float, float]]:
    middle = SIZE / 2
    if scene.relation is None:
        return [(middle + rng.uniform(-14, 14), middle + rng.uniform(-14, 14))]
    dx, dy = RELATIONS[scene.relation]
    jitter = rng.uniform(-3, 3, 4)
    offset = 31.0  # 2 * 31 between the centres: more than two radii of 28 and their jitter
    first = (middle + offset * dx + jitter[0], middle + offset * dy + jitter[1])
    second = (middle - offset * dx + jitter[2], middle - offset * dy + jitter[3])
    return [first, second]


def coverage(shape: str, x: float, y: float, radius: float) -> Plane:
    """How much of each pixel the shape covers: (128, 128) float32 in [0, 1]."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + np.float32(0.5)
    distance = _signed_distance(shape, columns - np.float32(x), rows - np.float32(y), radius)
    covered: Plane = np.clip(np.float32(0.5) - distance, 0, 1).astype(np.float32)
    return covered


def _signed_distance(shape: str, u: Plane, v: Plane, radius: float) -> Plane:
    """Distance from the outline in pixels, negative inside; `radius` is the circumscribed radius, `v` points down."""
    r = np.float32(radius)
    au, av = np.abs(u), np.abs(v)
    if shape == "circle":
        return np.hypot(u, v) - r
    if shape == "square":
        return np.maximum(au, av) - np.float32(0.85) * r
    if shape == "diamond":
        return (au + av - np.float32(1.1) * r) / np.float32(np.sqrt(2))
    if shape == "cross":
        width = np.float32(0.33) * r
        return np.minimum(np.maximum(au - r, av - width), np.maximum(av - r, au - width))
    if shape == "triangle":  # equilateral, apex up: two slanted sides and the base
        slanted: Plane = (np.float32(np.sqrt(3)) * au - v) / np.float32(2)
        return np.maximum(slanted, v) - np.float32(0.55) * r
    return _star_distance(u, v, 1.1 * radius)


def _star_distance(u: Plane, v: Plane, r: float) -> Plane:
    """Five-pointed star, one point up: fold the plane onto one half of one point, then it is a half-plane."""
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(u, -v) + sector / 2) % sector - sector / 2)
    rho = np.hypot(u, v)
    tip = np.array([r, 0.0])
    dent = 0.42 * r * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    edge = dent - tip
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    distance = (rho * np.cos(angle) - tip[0]) * normal[0] + rho * np.sin(angle) * normal[1]
    folded: Plane = distance.astype(np.float32)
    return folded


_SIZE_WORDS = {"small": ("small", "little", "tiny"), "medium": ("", "", "medium"), "large": ("large", "big", "huge")}
_RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_SENTENCES = (
    "{subject} on {bg} background",
    "{subject} on {bg} background",
    "{subject} against {bg} backdrop",
    "a picture of {subject} on {bg} background",
    "a drawing of {subject}, {plain} background",
    "{subject} in front of {bg} background",
    "{bg} background with {subject}",
    "there is {subject} on {bg} background",
)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of the many ways to say the scene in English."""
    subject = _noun(scene.things[0], rng)
    if scene.relation is not None:
        subject += f" {rng.choice(_RELATION_WORDS[scene.relation])} {_noun(scene.things[1], rng)}"
    sentence = str(rng.choice(_SENTENCES))
    text = sentence.format(subject=subject, bg=_with_article(scene.background), plain=scene.background)
    return text.capitalize() if rng.random() < 0.2 else text


def plain_caption(scene: Scene) -> str:
    """The plainest way to say a one-shape scene: what the proof asks for."""
    thing = scene.things[0]
    size = "" if thing.size == "medium" else f"{thing.size} "
    return f"{_with_article(f'{size}{thing.colour} {thing.shape}')} on {_with_article(scene.background)} background"


def _noun(thing: Thing, rng: np.random.Generator) -> str:
    size = str(rng.choice(_SIZE_WORDS[thing.size]))
    return _with_article(f"{size} {thing.colour} {thing.shape}".strip())


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words
