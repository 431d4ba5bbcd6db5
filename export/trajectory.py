"""Record a short generation in PyTorch fp32 with diffusers' own sampler: every latent on the way, and the picture."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler
from safetensors.numpy import save

from latentrt.engines.manifest import UNET, decoder_component

from .golden import NEGATIVE_PROMPT, PROMPT, latent_size, sizes, text_states
from .source import SourceModel
from .wrappers import networks

STEPS, GUIDANCE_SCALE, SEED = 4, 7.5, 0
METADATA_KEY = "trajectory"


def record_trajectory(model: SourceModel, path: Path) -> None:
    """Write the trajectory as a safetensors file.

    Tensors, all float32: `noise` (1, 4, h, w), as drawn, before the schedule scales it; `latents` (steps, 1, 4, h, w),
    after each step; `image` (1, 3, H, W) from the default decoder, not clamped. The metadata key `trajectory` is JSON
    with `sampler`, `steps`, `guidance_scale`, `prompt`, `negative_prompt`, `seed`.
    """
    scheduler = euler(model)
    with warnings.catch_warnings():
        # diffusers hands torch tensors to np.array, and torch's __array__ knows no `copy` yet
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy keyword", DeprecationWarning)
        scheduler.set_timesteps(STEPS)
    h, w = latent_size(model, sizes(model)[0])
    noise = torch.randn(1, 4, h, w, generator=torch.Generator().manual_seed(SEED))
    context = text_states(model, NEGATIVE_PROMPT, PROMPT)
    modules = {network.name: network.module for network in networks(model)}
    unet, decoder = modules[UNET], modules[decoder_component(next(iter(model.vaes)))]
    latents, x = [], noise * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            rows = scheduler.scale_model_input(torch.cat([x, x]), t)  # (2, 4, h, w)
            unconditional, conditional = unet(rows, t.float().expand(2), context).chunk(2)
            eps = unconditional + GUIDANCE_SCALE * (conditional - unconditional)
            x = scheduler.step(eps, t, x, return_dict=False)[0]  # (1, 4, h, w)
            latents.append(x)
        image = decoder(x / model.scaling_factor)  # (1, 3, H, W)
    tensors = {"noise": noise, "latents": torch.stack(latents), "image": image}
    arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
    path.write_bytes(save(arrays, metadata={METADATA_KEY: json.dumps(_facts(), sort_keys=True)}))


def euler(model: SourceModel) -> EulerDiscreteScheduler:
    """Diffusers' Euler sampler with the model's noise schedule, all else at the class's own defaults."""
    return EulerDiscreteScheduler(
        num_train_timesteps=model.num_train_timesteps,
        beta_start=model.beta_start,
        beta_end=model.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=model.prediction_type,
        steps_offset=model.steps_offset,
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
