"""What the seeds of a request mean: which stream draws, one or one per image, and how a variation is mixed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.errors import InputError, unknown_name

from .cuda_noise import TorchCudaNoise, parse_gpu
from .noise import MAX_SEED, NoiseSource, TorchCpuNoise, torch_seed

_NEARLY_PARALLEL = 0.9995  # mean cosine from which the web UIs interpolate along the chord


class Seeds(Protocol):
    """The fields of a request that decide its noise."""

    @property
    def seed(self) -> int:
        """Of the first image, or of all."""

    @property
    def noise(self) -> str:
        """`"cpu"`, `"cuda"`, or `"cuda:GPU"`."""

    @property
    def seed_per_image(self) -> bool:
        """Whether each image has a stream of its own."""

    @property
    def variation_seed(self) -> int:
        """Seed of the noise that is mixed in."""

    @property
    def variation_strength(self) -> float:
        """How much of it, 0 to 1."""


@dataclass(frozen=True, eq=False)
class ImageStreams:
    """One stream for each image: every draw of (n, ...) is n draws of (1, ...), one from each stream."""

    streams: tuple[NoiseSource, ...]

    def normal(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """The next normals, as float32 of this shape; its first dimension is the number of streams."""
        return np.concatenate([stream.normal((1, *shape[1:])) for stream in self.streams])


def check_seeds(seeds: Seeds, images: int) -> None:
    """Check the fields that decide the noise.

    Raises:
        InputError: names the field, what it expects and what it got.
    """
    strength: Any = seeds.variation_strength
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise InputError(f"variation_strength is a number from 0 to 1; got {strength!r}")
    last = images - 1 if seeds.seed_per_image else 0
    for name in ("seed", "variation_seed"):
        value = getattr(seeds, name)
        torch_seed(value)
        if value > MAX_SEED - last:
            raise InputError(f"{name}: with a seed for each of {images} images the last would be beyond {MAX_SEED}")
    _stream(seeds.noise, 0)


def image_seeds(seeds: Seeds, images: int) -> tuple[list[int], list[int]]:
    """Each image's seed and variation seed.

    Where each image has its own, it is the seed that counts up; or, with a variation, the variation seed alone, so
    that all images are variations of one (the web UIs' rule).
    """
    varied = seeds.variation_strength > 0
    steps = range(images) if seeds.seed_per_image else [0] * images
    return (
        [int(seeds.seed) + (0 if varied else step) for step in steps],
        [int(seeds.variation_seed) + step for step in steps],
    )


def open_noise(seeds: Seeds, images: int) -> NoiseSource:
    """The stream that the start noise and the sampler's noise are drawn from, in this order."""
    return _open(seeds, image_seeds(seeds, images)[0])


def start_noise(seeds: Seeds, noise: NoiseSource, shape: Sequence[int]) -> NDArray[np.float32]:
    """The first draw of `noise`, with the variation mixed in; (n, 4, h, w) float32 of unit variance."""
    start = noise.normal(shape)
    if seeds.variation_strength == 0:
        return start
    variation = _open(seeds, image_seeds(seeds, shape[0])[1]).normal(shape)
    mixed = [slerp(float(seeds.variation_strength), a, b) for a, b in zip(start, variation, strict=True)]
    return np.stack(mixed)


def slerp(strength: float, low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[np.float32]:
    """Spherical interpolation from `low` to `high`, each (4, h, w), as the web UIs' `rng.slerp` does it.

    The vectors that are turned into one another are the columns of each channel, h values long, not the whole image.
    Where the two are parallel on average (one seed given twice) it is linear interpolation from `low` to `high`; the
    web UIs' goes from `high` to `low` there.
    """
    unit_low, unit_high = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (low, high))
    cosine = (unit_low * unit_high).sum(axis=1, keepdims=True)  # (4, 1, w)
    if cosine.mean() > _NEARLY_PARALLEL:
        return np.asarray(low * np.float32(1 - strength) + high * np.float32(strength), np.float32)
    omega = np.arccos(np.clip(cosine, -1, 1))
    so = np.sin(omega)
    mixed = np.sin(np.float32(1 - strength) * omega) / so * low + np.sin(np.float32(strength) * omega) / so * high
    return np.asarray(mixed, np.float32)


def noise_facts(seeds: Seeds, index: int, images: int, given: bool = False) -> dict[str, str]:
    """The noise of image `index`, as it is told in the picture's text; nothing of what is at its default.

    `given` says that the start noise was not drawn, so that the seed is that of the sampler's noise alone.
    """
    own, variations = image_seeds(seeds, images)
    facts = {"seed": f"{own[index]}{', start latents given' if given else ''}"}
    if seeds.noise != "cpu":
        facts["noise"] = seeds.noise
    if images > 1:
        facts["streams"] = "one per image" if seeds.seed_per_image else "one for all images"
    if seeds.variation_strength > 0 and not given:
        facts["variation"] = f"seed {variations[index]}, strength {seeds.variation_strength}"
    return facts


def _open(seeds: Seeds, image_seeds: Sequence[int]) -> NoiseSource:
    if not seeds.seed_per_image:
        return _stream(seeds.noise, image_seeds[0])
    return ImageStreams(tuple(_stream(seeds.noise, seed) for seed in image_seeds))


def _stream(noise: str, seed: int) -> NoiseSource:
    if noise == "cpu":
        return TorchCpuNoise(seed)
    device, colon, gpu = str(noise).partition(":")
    if device != "cuda" or (colon and not gpu):
        raise unknown_name("noise", str(noise), ["cpu", "cuda", "cuda:GPU such as cuda:rtx4090 or cuda:128x1536"])
    return TorchCudaNoise(seed, parse_gpu(gpu) if gpu else None)
