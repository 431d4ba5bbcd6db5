"""What a caller asks for, checked against what the bundle can draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.errors import InputError, unknown_name
from latentrt.engines.manifest import UNET, Manifest

from .prompt.options import PromptSyntax, check_prompt_options
from .samplers import prepare
from .schedule import NoiseTable, Schedule
from .seeds import check_seeds
from .tokenizer import check_text

MAX_SIZE = 4096  # pixels on a side
MAX_STEPS = 1000  # the model was trained on no more timesteps
MAX_IMAGES = 64


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """A picture request, in diffusers' words. `None` takes the bundle's default.

    Guidance is on where `guidance_scale` is above 1, as in diffusers; each latent then costs two UNet rows. `latents`
    is start noise of unit variance, (n, 4, height / 8, width / 8) float32, in place of what `seed` would draw.

    `noise` is the device whose PyTorch stream is drawn: "cpu"; "cuda", a GPU with a thread for every element; or
    "cuda:rtx4090", "cuda:128x1536", a certain GPU. All images come from one stream, or with `seed_per_image` from
    seed, seed + 1, ... `variation_strength` (0 to 1) turns the start noise towards that of `variation_seed`.

    A "plain" prompt means what it means in diffusers; in a "weighted" one `(word:1.3)`, `[word]` and BREAK mean what
    they mean in the web UIs. `max_prompt_chunks` is how many chunks of 75 tokens a prompt may fill; the rest is cut.
    `clip_skip` leaves out as many of the text encoder's last layers.
    """

    prompt: str
    negative_prompt: str = ""
    num_inference_steps: int = 20
    guidance_scale: float = 7.5
    seed: int = 0
    width: int | None = None
    height: int | None = None
    num_images_per_prompt: int = 1
    sampler: str = "euler"
    karras: bool = False
    decoder: str | None = None
    latents: NDArray[np.float32] | None = None
    noise: str = "cpu"
    seed_per_image: bool = False
    variation_seed: int = 0
    variation_strength: float = 0.0
    prompt_syntax: PromptSyntax = "plain"
    max_prompt_chunks: int = 1
    clip_skip: int | None = None

    @property
    def guided(self) -> bool:
        """Whether the negative prompt plays a part."""
        return self.guidance_scale > 1.0


@dataclass(frozen=True)
class Plan:
    """A request that was checked against a bundle: its size, its decoder, its path from noise to latent."""

    width: int  # pixels
    height: int  # pixels
    latent_shape: tuple[int, int, int, int]
    decoder: str
    schedule: Schedule


def plan(request: Request, manifest: Manifest) -> Plan:
    """Check every argument of a request, and fill in what the bundle decides.

    Raises:
        InputError: names the argument, what it expects and what it got.
    """
    _check_draws_from_text(manifest)
    for name in ("prompt", "negative_prompt"):
        check_text(name, getattr(request, name))
    _check_count("num_inference_steps", request.num_inference_steps, MAX_STEPS)
    _check_count("num_images_per_prompt", request.num_images_per_prompt, MAX_IMAGES)
    scale = request.guidance_scale
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale < 0:
        raise InputError(f"guidance_scale is a finite number, 0 or more; got {scale!r}")
    check_seeds(request, request.num_images_per_prompt)
    check_prompt_options(request, manifest)
    decoder = manifest.default_decoder if request.decoder is None else request.decoder
    if decoder not in manifest.decoders:
        raise unknown_name("decoder", decoder, manifest.decoders)
    model, facts = manifest.model, manifest.scheduler
    width = _checked_side("width", request.width, manifest)
    height = _checked_side("height", request.height, manifest)
    factor = model.vae_scale_factor
    shape = (request.num_images_per_prompt, model.latent_channels, height // factor, width // factor)
    if request.latents is not None:
        _check_latents(request.latents, shape)
    table = NoiseTable(facts.beta_start, facts.beta_end, facts.num_train_timesteps, facts.steps_offset)
    schedule = prepare(request.sampler, table, request.num_inference_steps, request.karras)
    return Plan(width, height, shape, decoder, schedule)


def _check_draws_from_text(manifest: Manifest) -> None:
    channels = manifest.components[UNET].inputs[0].shape[1]
    if channels != manifest.model.latent_channels:
        raise InputError(
            f"this bundle's UNet takes {channels} channels, as those for inpainting do, and latentrt draws from text "
            f"alone: use a bundle whose UNet takes {manifest.model.latent_channels}"
        )


def _check_latents(latents: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(latents, np.ndarray) or latents.shape != shape or latents.dtype != np.float32:
        got = f"{latents.dtype} {latents.shape}" if isinstance(latents, np.ndarray) else repr(type(latents).__name__)
        raise InputError(f"latents are start noise, float32 {shape} for this size and number of images; got {got}")
    if not np.isfinite(latents).all():
        raise InputError("latents hold NaN or infinity; start noise must be finite")


def _checked_side(name: str, value: int | None, manifest: Manifest) -> int:
    multiple = manifest.model.size_multiple
    side = manifest.model.default_size if value is None else value
    if isinstance(side, bool) or not isinstance(side, int) or not 0 < side <= MAX_SIZE:
        raise InputError(f"{name} is a number of pixels from {multiple} to {MAX_SIZE}; got {side!r}")
    if side % multiple:
        below, above = max(multiple, side // multiple * multiple), (side // multiple + 1) * multiple
        nearest = f"{below}" if below == above else f"{below} or {above}"
        raise InputError(f"{name} must be a multiple of {multiple} pixels for this model; got {side}: try {nearest}")
    return side


def _check_count(name: str, value: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InputError(f"{name} is a whole number from 1 to {most}; got {value!r}")
