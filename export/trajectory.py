"""Record short generations in PyTorch fp32 with diffusers' own sampler: every latent on the way, and the picture."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from diffusers import EulerDiscreteScheduler
from safetensors.numpy import save
from torch import Tensor

from latentrt.engines.distilled import guidance_embedding, guidance_width
from latentrt.engines.manifest import ModelFacts, Precision, SchedulerFacts
from latentrt.engines.metrics import difference
from latentrt.engines.trajectory import METADATA_KEY, NOISE, TrajectoryFacts, TrajectoryFloor

from .compare import round_up
from .golden import NEGATIVE_PROMPT, PROMPT, latent_size
from .wrappers import Network

STEPS, SEED = 8, 0
MAX_SIDE = 128  # pixels: eight steps in three precisions would dominate the time of an export
GUIDANCE_SCALES = (7.5, 1.0)  # two rows a step, and one


@dataclass(frozen=True)
class Drawn:
    """A short generation: noise (1, 4, h, w), latents (steps, 1, 4, h, w), and once decoded (1, 3, 8 h, 8 w)."""

    asked: TrajectoryFacts
    noise: Tensor
    latents: Tensor
    image: Tensor | None = None


def side(facts: ModelFacts) -> int:
    """Height and width of the picture in pixels."""
    return max(facts.size_multiple, min(facts.default_size, MAX_SIDE) // facts.size_multiple * facts.size_multiple)


def draw(network: Network, facts: ModelFacts, schedule: SchedulerFacts, texts: Mapping[str, Tensor]) -> list[Drawn]:
    """Draw `PROMPT` with the UNet in PyTorch at each guidance scale; `texts` are the states of both prompts.

    All scales are rows of one call: a large UNet spends most of a small call on reading its weights.
    """
    schedulers = [euler(facts, schedule) for _ in GUIDANCE_SCALES]
    with warnings.catch_warnings():
        # diffusers hands torch tensors to np.array, and torch's __array__ knows no `copy` yet
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy keyword", DeprecationWarning)
        for scheduler in schedulers:
            scheduler.set_timesteps(STEPS)
    h, w = latent_size(facts, (side(facts),) * 2)
    noise = torch.randn(1, facts.latent_channels, h, w, generator=torch.Generator().manual_seed(SEED))
    steps = [[noise * scheduler.init_noise_sigma] for scheduler in schedulers]  # by scale: x before each step, and last
    with torch.no_grad():
        for t in schedulers[0].timesteps:
            asked = [scheduler.scale_model_input(xs[-1], t) for scheduler, xs in zip(schedulers, steps, strict=True)]
            for scheduler, xs, predicted in zip(schedulers, steps, _predicted(network, asked, t, texts), strict=True):
                xs.append(scheduler.step(predicted, t, xs[-1], return_dict=False)[0])  # (1, 4, h, w)
    return [Drawn(_asked(scale), noise, torch.stack(xs[1:])) for scale, xs in zip(GUIDANCE_SCALES, steps, strict=True)]


def _predicted(network: Network, asked: Sequence[Tensor], t: Tensor, texts: Mapping[str, Tensor]) -> list[Tensor]:
    """The noise in each latent (1, 4, h, w): two rows by classifier-free guidance, one where it is off or told."""
    width = guidance_width(network.inputs)
    prompts = [(PROMPT,) if scale <= 1 or width is not None else (NEGATIVE_PROMPT, PROMPT) for scale in GUIDANCE_SCALES]
    context = torch.stack([texts[prompt] for some in prompts for prompt in some])
    inputs = [
        torch.cat([x for x, some in zip(asked, prompts, strict=True) for _ in some]),
        t.float().expand(len(context)),
    ]
    told = [] if width is None else [torch.from_numpy(guidance_embedding(np.array(GUIDANCE_SCALES, np.float32), width))]
    rows = network.module(*inputs, context, *told).split([len(some) for some in prompts])
    return [_guided(row, scale) for row, scale in zip(rows, GUIDANCE_SCALES, strict=True)]


def _guided(rows: Tensor, scale: float) -> Tensor:
    if len(rows) == 1:
        return rows
    unconditional, conditional = rows.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def decoded(drawn: Drawn, decoder: Network, facts: ModelFacts) -> Drawn:
    """The generation with its picture."""
    with torch.no_grad():
        return replace(drawn, image=decoder.module(drawn.latents[-1] / facts.scaling_factor))


def save_trajectories(drawn: Mapping[Precision, Sequence[Drawn]], path: Path) -> None:
    """Write those drawn in fp32 as the safetensors file that `engines/trajectory.py` describes.

    Those drawn in reduced precision leave their distance from them: the floor.
    """
    tensors, asked = {NOISE: drawn["fp32"][0].noise}, []
    for index, one in enumerate(drawn["fp32"]):
        assert one.image is not None
        tensors[f"{one.asked.name}/image"] = one.image
        tensors[f"{one.asked.name}/latents"] = one.latents
        floor = {name: _floor(others[index], one) for name, others in drawn.items() if name != "fp32"}
        finite = {name: found for name, found in floor.items() if found is not None}
        asked.append(msgspec.structs.replace(one.asked, floor=finite))
    arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
    path.write_bytes(save(arrays, metadata={METADATA_KEY: msgspec.json.encode(asked, order="sorted").decode()}))


def _floor(reduced: Drawn, exact: Drawn) -> TrajectoryFloor | None:
    """None where the reduced run overflowed."""
    assert reduced.image is not None
    assert exact.image is not None
    pairs = [*zip(reduced.latents, exact.latents, strict=True), (reduced.image.clamp(-1, 1), exact.image.clamp(-1, 1))]
    errors = [difference(answer.numpy(), expected.numpy()).relative_l2 for answer, expected in pairs]
    if not np.isfinite(errors).all():
        return None
    *latents, image = (round_up(error, 2) for error in errors)
    return TrajectoryFloor(latents=tuple(latents), image=image)


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
