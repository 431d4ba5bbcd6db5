"""Record short generations in PyTorch fp32 with diffusers' own sampler: every latent on the way, and the picture."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from diffusers import EulerDiscreteScheduler
from safetensors.numpy import save
from torch import Tensor

from latentrt.engines.distilled import guidance_embedding, guidance_width
from latentrt.engines.manifest import ModelFacts, SchedulerFacts
from latentrt.engines.trajectory import METADATA_KEY, NOISE, TrajectoryFacts

from .golden import NEGATIVE_PROMPT, PROMPT, latent_size, sizes
from .wrappers import Network

STEPS, SEED = 8, 0
GUIDANCE_SCALES = (7.5, 1.0)  # two rows a step, and one


@dataclass(frozen=True)
class Drawn:
    """A short generation, before its last latents are decoded: noise (1, 4, h, w), latents (steps, 1, 4, h, w)."""

    asked: TrajectoryFacts
    noise: Tensor
    latents: Tensor


def draw(
    network: Network, facts: ModelFacts, schedule: SchedulerFacts, texts: Mapping[str, Tensor], guidance_scale: float
) -> Drawn:
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
            predicted = _guided(network, scheduler.scale_model_input(x, t), t.float(), texts, guidance_scale)
            x = scheduler.step(predicted, t, x, return_dict=False)[0]  # (1, 4, h, w)
            latents.append(x)
    return Drawn(_asked(guidance_scale), noise, torch.stack(latents))


def _guided(network: Network, x: Tensor, t: Tensor, texts: Mapping[str, Tensor], guidance_scale: float) -> Tensor:
    """Two rows by classifier-free guidance; one where it is off, or where the UNet is told the scale."""
    width = guidance_width(network.inputs)
    if width is not None:
        told = torch.from_numpy(guidance_embedding(np.array([guidance_scale], np.float32), width))
        return network.module(x, t.expand(1), texts[PROMPT][None], told)  # type: ignore[no-any-return]
    if guidance_scale <= 1:
        return network.module(x, t.expand(1), texts[PROMPT][None])  # type: ignore[no-any-return]
    context = torch.stack([texts[NEGATIVE_PROMPT], texts[PROMPT]])
    unconditional, conditional = network.module(torch.cat([x, x]), t.expand(2), context).chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)  # type: ignore[no-any-return]


def save_trajectories(drawn: Sequence[Drawn], decoder: Network, facts: ModelFacts, path: Path) -> None:
    """Decode the last latents of each and write them as the safetensors file that `engines/trajectory.py` describes."""
    tensors = {NOISE: drawn[0].noise}
    for one in drawn:
        with torch.no_grad():
            tensors[f"{one.asked.name}/image"] = decoder.module(one.latents[-1] / facts.scaling_factor)
        tensors[f"{one.asked.name}/latents"] = one.latents
    arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
    asked = msgspec.json.encode([one.asked for one in drawn], order="sorted").decode()
    path.write_bytes(save(arrays, metadata={METADATA_KEY: asked}))


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


def _asked(guidance_scale: float) -> TrajectoryFacts:
    return TrajectoryFacts(
        name=f"guidance-{guidance_scale:g}",
        sampler="euler",
        steps=STEPS,
        guidance_scale=guidance_scale,
        prompt=PROMPT,
        negative_prompt=NEGATIVE_PROMPT,
        seed=SEED,
    )
