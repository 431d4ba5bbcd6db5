"""A model of SD 1.5's kind, so small that a test may write it many times, and changes to its files."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from latentrt.export.architecture import METADATA_KEY
from latentrt.export.demo.config import TEXT, UNET, VAE

TINY_UNET = UNET | {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 24,
}
TINY_VAE = VAE | {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
TINY_TEXT = TEXT | {
    "vocab_size": 99,
    "hidden_size": 24,
    "intermediate_size": 48,
    "bos_token_id": 97,
    "eos_token_id": 98,
    "pad_token_id": 98,
}
FACTS = {"unet": {"num_heads": 4}, "vae": {"norm_num_groups": 8}, "text_encoder": {"num_attention_heads": 3}}
VAE_FILE = "demo-vae-ft-mse.safetensors"

Tensors = dict[str, Tensor]
Change = Callable[[Tensors], Tensors]


def fresh(unet: dict[str, Any], vae: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """Seeded fresh modules; the refined autoencoders differ from the first in the decoder alone."""
    torch.manual_seed(0)
    own = AutoencoderKL(**vae)
    vaes = {"kl-f8": own, "ft-ema": copy.deepcopy(own), "ft-mse": copy.deepcopy(own)}
    for factor, name in ((1.1, "ft-ema"), (0.9, "ft-mse")):
        for parameter in vaes[name].decoder.parameters():
            parameter.data *= factor
    modules = {"unet": UNet2DConditionModel(**unet), "unet_ema": UNet2DConditionModel(**unet), "vaes": vaes}
    return modules | {"text_encoder": CLIPTextModel(CLIPTextConfig(**text))}


@functools.cache
def tiny() -> dict[str, Any]:
    """The modules of the tiny model."""
    return fresh(TINY_UNET, TINY_VAE, TINY_TEXT)


def halved(module: nn.Module) -> Tensors:
    """A module's weights as float16 holds them."""
    return {key: tensor.half().float() for key, tensor in module.state_dict().items()}


def same(module: nn.Module, tensors: Tensors) -> bool:
    """Whether a module has exactly these weights."""
    found = module.state_dict()
    return found.keys() == tensors.keys() and all(torch.equal(found[key], tensors[key]) for key in tensors)


def is_frozen(module: nn.Module) -> bool:
    """Whether a module is float32, in evaluation mode, without gradients, and all there."""
    parameters = list(module.parameters())
    plain = all(p.dtype == torch.float32 and not p.requires_grad and not p.is_meta for p in parameters)
    return plain and not any(b.is_meta for b in module.buffers()) and not any(m.training for m in module.modules())


def edited(file: Path, to: Path, change: Change, facts: dict[str, Any] | None = None) -> Path:
    """A copy of a safetensors file with other tensors and facts."""
    save_file(change(load_file(file)), to, metadata={METADATA_KEY: json.dumps(FACTS | (facts or {}))})
    return to


def drop(*keys: str) -> Change:
    """Leave keys out."""
    return lambda file: {key: tensor for key, tensor in file.items() if key not in keys}


def put(**tensors: Tensor) -> Change:
    """Add or replace tensors."""
    return lambda file: file | tensors


def without_averages(file: Tensors) -> Tensors:
    """A checkpoint's tensors as `v1-5-pruned-emaonly` has them: one set of weights."""
    return {key: tensor for key, tensor in file.items() if not key.startswith("model_ema.")}
