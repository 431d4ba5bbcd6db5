"""Record a short generation in PyTorch fp32 with diffusers' own sampler: every latent on the way, and the picture."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler
from safetensors.numpy import save
from torch import Tensor

from latentrt.engines.distilled import guidance_embedding, guidance_width
from latentrt.engines.manifest import ModelFacts, SchedulerFacts

from .golden import NEGATIVE_PROMPT, PROMPT, latent_size, sizes
from .wrappers import Network

STEPS, GUIDANCE_SCALE, SEED = 4, 7.5, 0
METADATA_KEY = "trajectory"


@dataclass(frozen=True)
class Drawn:
    """A short generation, before its last latents are decoded: noise (1, 4, h, w), latents (steps, 1, 4, h, w)."""

    noise: Tensor
    latents: Tensor


def draw(network: Network, facts: ModelFacts, schedule: SchedulerFacts, texts: Mapping[str, Tensor]) -> Drawn:
    """Draw `PROMPT` with the UNet in PyTorch; `texts` are the states of both prompts."""
    scheduler = euler(facts, schedule)
    with warnings.catch_warnings():
        # diffusers hands torch tensors to np.array, and torch's __array__ knows no `copy` yet
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy keyword", DeprecationWarning)
        scheduler.set_timesteps(STEPS)
    h, w = latent_size(facts, sizes(facts)[0])
    noise = torch.randn(1, facts.latent_channels, h, w, generator=torch.Generator().manual_seed(SEED))
    latents, x = [], noise * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            predicted = _guided(network, scheduler.scale_model_input(x, t), t.float(), texts)
            x = scheduler.step(predicted, t, x, return_dict=False)[0]  # (1, 4, h, w)
            latents.append(x)
    return Drawn(noise, torch.stack(latents))


def _guided(network: Network, x: Tensor, t: Tensor, texts: Mapping[str, Tensor]) -> Tensor:
    """Two rows by classifier-free guidance, or one where the UNet is told the scale."""
    width = guidance_width(network.inputs)
    if width is not None:
        told = torch.from_numpy(guidance_embedding(np.array([GUIDANCE_SCALE], np.float32), width))
        return network.module(x, t.expand(1), texts[PROMPT][None], told)  # type: ignore[no-any-return]
    context = torch.stack([texts[NEGATIVE_PROMPT], texts[PROMPT]])
    unconditional, conditional = network.module(torch.cat([x, x]), t.expand(2), context).chunk(2)
    return unconditional + GUIDANCE_SCALE * (conditional - unconditional)  # type: ignore[no-any-return]


def save_trajectory(drawn: Drawn, decoder: Network, facts: ModelFacts, path: Path) -> None:
    """Decode the last latents and write the trajectory as a safetensors file.

    Tensors, all float32: `noise` (1, 4, h, w), as drawn, before the schedule scales it; `latents` (steps, 1, 4, h, w),
    after each step; `image` (1, 3, H, W) from the default decoder, not clamped. The metadata key `trajectory` is JSON
    with `sampler`, `steps`, `guidance_scale`, `prompt`, `negative_prompt`, `seed`.
    """
    with torch.no_grad():
        image = decoder.module(drawn.latents[-1] / facts.scaling_factor)
    tensors = {"noise": drawn.noise, "latents": drawn.latents, "image": image}
    arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
    path.write_bytes(save(arrays, metadata={METADATA_KEY: json.dumps(_facts(), sort_keys=True)}))


def euler(facts: ModelFacts, schedule: SchedulerFacts) -> EulerDiscreteScheduler:
    """Diffusers' Euler sampler with the model's noise schedule, all else at the class's own defaults."""
    return EulerDiscreteScheduler(
        num_train_timesteps=schedule.num_train_timesteps,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=facts.prediction_type,
        steps_offset=schedule.steps_offset,
    )


def _facts() -> dict[str, str | int | float]:
    return {
        "sampler": "euler",
        "steps": STEPS,
        "guidance_scale": GUIDANCE_SCALE,
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE_PROMPT,
        "seed": SEED,
    }
