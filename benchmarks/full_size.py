"""Checkpoints of Stable Diffusion 1.5's true size and key layout, with seeded random weights.

The published weights are not needed to know what an export of them takes. Random ones are scaled by their fan-in, so
that activations keep their size through the network as trained ones do.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from latentrt.export.architecture import Shapes
from latentrt.export.conversion import (
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    shapes_of,
    text_tensors,
    unet_tensors,
    vae_tensors,
)
from latentrt.export.layout import EMA_PREFIX

# What the published config.json files state beyond their classes' defaults.
UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
_SCHEDULE_BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)

_Module = TypeVar("_Module", bound=nn.Module)


def unet_shapes(**changes: int) -> Shapes:
    """Keys, without prefix, and shapes of the UNet; `changes` are to its configuration, such as `in_channels=9`."""
    with torch.device("meta"):
        return shapes_of(unet_tensors(UNet2DConditionModel(**UNET | changes)))


def vae_shapes() -> Shapes:
    """Keys, without prefix, and shapes of the autoencoder: those of `vae-ft-mse-840000-ema-pruned` too."""
    with torch.device("meta"):
        return shapes_of(vae_tensors(AutoencoderKL(**VAE)))


def text_shapes() -> Shapes:
    """Keys, without prefix, and shapes of the text encoder."""
    with torch.device("meta"):
        return shapes_of(text_tensors(CLIPTextModel(CLIPTextConfig(**TEXT))))


def layout(*, ema: bool = False, **unet_changes: int) -> Shapes:
    """All floating keys and shapes of `v1-5-pruned-emaonly`, or with `ema` those of `v1-5-pruned`."""
    unet = unet_shapes(**unet_changes)
    flat = UNET_PREFIX.removeprefix("model.")
    averaged = {EMA_PREFIX + (flat + key).replace(".", ""): shape for key, shape in unet.items()} if ema else {}
    return (
        dict.fromkeys(_SCHEDULE_BUFFERS, (1000,))
        | {UNET_PREFIX + key: shape for key, shape in unet.items()}
        | averaged
        | {VAE_PREFIX + key: shape for key, shape in vae_shapes().items()}
        | {TEXT_PREFIX + key: shape for key, shape in text_shapes().items()}
    )


def random_weights(shapes: Shapes, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Seeded by each key: normal with deviation 1/sqrt(fan-in); norms' weights are 1, biases 0."""
    for key, shape in shapes.items():
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        if len(shape) > 1:
            scale = 0.02 if "embedding" in key.rpartition(".")[0] else 1 / math.sqrt(math.prod(shape[1:]))
            yield key, torch.randn(shape, generator=generator).mul_(scale).to(dtype)
        else:
            yield key, torch.full(shape, float(key.endswith("weight")), dtype=dtype)


def with_random_weights(module: _Module, tensors: dict[str, Tensor]) -> _Module:
    """The module, frozen, with `write_checkpoint`'s weights; `tensors` are views of its own, by original key."""
    module.eval().requires_grad_(False)
    for key, weight in random_weights(shapes_of(tensors), torch.float32):
        tensors[key].copy_(weight)
    return module


def counters(*, ema: bool = False) -> dict[str, Tensor]:
    """What a checkpoint holds that is not floating weights of a network."""
    averaging = {f"{EMA_PREFIX}decay": torch.tensor(0.9999), f"{EMA_PREFIX}num_updates": torch.tensor(1).int()}
    return {f"{TEXT_PREFIX}embeddings.position_ids": torch.arange(77)[None]} | (averaging if ema else {})


def write_checkpoint(path: Path, *, dtype: torch.dtype, ema: bool = False, zipped: bool = True) -> Path:
    """Write a whole checkpoint, by the suffix of `path` safetensors or a pickle; torch 1.x wrote those not `zipped`."""
    tensors = dict(random_weights(layout(ema=ema), dtype)) | counters(ema=ema)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        content = {"epoch": 1, "global_step": 840001, "state_dict": tensors}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path
