"""What a caller asks for, checked against what the bundle can draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.errors import InputError, unknown_name
from latentrt.engines.manifest import UNET, Manifest
from latentrt.engines.size import MAX_SIZE

from .checks import check_count
from .guidance import Guidance, check_guidance
from .prompt.options import PromptSyntax, check_prompt_options
from .samplers import prepare, sampler_with_eta
from .schedule import NoiseTable, Schedule
from .seeds import check_seeds
from .tokenizer import check_text

MAX_STEPS = 1000  # the model was trained on no more timesteps
MAX_IMAGES = 64


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """A picture request, in diffusers' words. `None` takes the bundle's default.

    Without a prompt the picture is unconditional and a latent costs one UNet row. With one, guidance is on where
    `guidance_scale` is above 1, as in diffusers, and a latent costs two rows. `guidance_interval` (sigma_lo, sigma_hi)
    keeps guidance to the questions with sigma_lo < sigma <= sigma_hi (2404.07724); the others cost one row.
    `guidance_rescale` is phi of 2305.08891.

    `spacing` None is that of diffusers' class; `timesteps` or `sigmas` say the path itself, and then
    `num_inference_steps` is not used. `latents` is start noise of unit variance, (n, 4, height / 8, width / 8) float32,
    in place of what `seed` would draw.

    `noise` is the device whose PyTorch stream is drawn: "cpu"; "cuda", a GPU with a thread for every element; or
    "cuda:rtx4090", "cuda:128x1536", a certain GPU. All images come from one stream, or with `seed_per_image` from
    seed, seed + 1, ... `variation_strength` (0 to 1) turns the start noise towards that of `variation_seed`.

    A "plain" prompt means what it means in diffusers; in a "weighted" one `(word:1.3)`, `[word]` and BREAK mean what
    they mean in the web UIs. `max_prompt_chunks` is how many chunks of 75 tokens a prompt may fill; the rest is cut.
    `clip_skip` leaves out as many of the text encoder's last layers.
    """

    prompt: str | None = None
    negative_prompt: str = ""
    num_inference_steps: int = 20
    guidance_scale: float = 7.5
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    seed: int = 0
    width: int | None = None
    height: int | None = None
    num_images_per_prompt: int = 1
    sampler: str = "euler"
    spacing: str | None = None
    timesteps: Sequence[float] | None = None
    sigmas: Sequence[float] | None = None
    eta: float | None = None
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
        return self.prompt is not None and self.guidance_scale > 1.0

    @property
    def guidance(self) -> Guidance | None:
        """How the negative prompt plays its part, where it does."""
        return Guidance(self.guidance_scale, self.guidance_interval, self.guidance_rescale) if self.guided else None


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
    _check_prompts(request)
    check_count("num_inference_steps", request.num_inference_steps, 1, MAX_STEPS)
    check_count("num_images_per_prompt", request.num_images_per_prompt, 1, MAX_IMAGES)
    check_guidance(request.guidance_scale, request.guidance_interval, request.guidance_rescale)
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
    path = {"timesteps": request.timesteps, "sigmas": request.sigmas}
    schedule = prepare(request.sampler, table, request.num_inference_steps, request.spacing, **path)
    sampler_with_eta(request.sampler, request.eta)
    return Plan(width, height, shape, decoder, schedule)


def _check_draws_from_text(manifest: Manifest) -> None:
    channels = manifest.components[UNET].inputs[0].shape[1]
    if channels != manifest.model.latent_channels:
        raise InputError(
            f"this bundle's UNet takes {channels} channels, as those for inpainting do, and latentrt draws from text "
            f"alone: use a bundle whose UNet takes {manifest.model.latent_channels}"
        )


def _check_prompts(request: Request) -> None:
    if request.prompt is not None:
        check_text("prompt", request.prompt)
    check_text("negative_prompt", request.negative_prompt)
    if request.prompt is None and request.negative_prompt:
        raise InputError(
            "negative_prompt guides away from a prompt, and there is none; give prompt='' to guide by it alone"
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
