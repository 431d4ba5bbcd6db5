"""Pictures through diffusers' StableDiffusionPipeline, whoever runs its networks."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import diffusers
import numpy as np
import torch

from .contestant import Array, Asked, Clock, Drawn, counted

diffusers.utils.logging.set_verbosity_error()

SAMPLERS = {
    "euler": diffusers.EulerDiscreteScheduler,
    "ddim": diffusers.DDIMScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
}
# what SD 1.5's own config states. A config that was saved again names the spacing of its own class too, PNDM's; without
# it, each class above keeps its own
_STATED = frozenset(
    {
        "beta_end",
        "beta_schedule",
        "beta_start",
        "clip_sample",
        "num_train_timesteps",
        "prediction_type",
        "set_alpha_to_one",
        "steps_offset",
        "trained_betas",
    }
)


class Pictures:
    """A pipeline that draws what is asked; `calls` are the methods that are its networks: (owner, method, network)."""

    def __init__(self, pipeline: Any, dtype: torch.dtype, calls: list[tuple[Any, str, str]]) -> None:
        pipeline.set_progress_bar_config(disable=True)
        stated = {key: value for key, value in pipeline.scheduler.config.items() if key in _STATED}
        self._schedulers = {name: sampler.from_config(stated) for name, sampler in SAMPLERS.items()}
        self._pipeline, self._dtype, self._calls = pipeline, dtype, calls

    def draw(self, asked: Asked, clock: Clock) -> Drawn:
        """Draw them all in one call of the pipeline."""
        if asked.sampler not in self._schedulers:
            raise ValueError(f"unknown sampler {asked.sampler!r}; known: {', '.join(self._schedulers)}")
        self._pipeline.scheduler = self._schedulers[asked.sampler]
        after: list[torch.Tensor] = []  # each step; only the last is kept unless all are asked for

        def on_step_end(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if not asked.steps:
                after.clear()
            after.append(tensors["latents"])
            return tensors

        with ExitStack() as stack:
            for owner, method, network in self._calls:
                stack.enter_context(counted(clock, owner, method, network))
            images = self._pipeline(
                asked.prompts,
                negative_prompt=[asked.negative_prompt] * len(asked.prompts),
                num_inference_steps=asked.num_inference_steps,
                guidance_scale=asked.guidance_scale,
                width=asked.width,
                height=asked.height,
                latents=torch.from_numpy(_start(asked)).to(self._dtype),
                callback_on_step_end=on_step_end,
            ).images
        return Drawn(
            images=np.stack([np.asarray(image) for image in images]),
            latents=_array(after[-1]),
            steps=np.stack([_array(latents) for latents in after]) if asked.steps else None,
        )


def _start(asked: Asked) -> Array:
    """Unit noise: what was given, or what torch's CPU generator draws from the seed of each picture."""
    if asked.latents is not None:
        return asked.latents
    shape = (1, 4, asked.height // 8, asked.width // 8)
    return np.concatenate(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy() for seed in asked.seeds]
    )


def _array(latents: torch.Tensor) -> Array:
    return latents.float().cpu().numpy()
