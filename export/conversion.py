"""Between the original (CompVis) key layout and diffusers' modules.

Into modules, diffusers' and transformers' own conversions do the work; the names here run the other way. They say which
keys and shapes a file must hold, and they pack the demo model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from latentrt.engines.errors import CheckpointError

from .architecture import GUIDANCE_KEY, Shapes

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer.text_model."
LISTED = 10  # names in a message, before it only counts

_GUIDANCE_NAME = "time_embedding.cond_proj.weight"

Tensors = Mapping[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_LAYERS = {
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_VAE_ATTENTION = re.compile(r"\.mid\.attn_1\.(q|k|v|proj_out)\.weight$")


def original_unet_name(name: str, config: Mapping[str, Any]) -> str:
    """A parameter of `UNet2DConditionModel` -> its original name, without `model.diffusion_model.`."""
    layers = config["layers_per_block"]
    if middle := _MIDDLE.fullmatch(name):
        kind, index, rest = middle[1], int(middle[2]), middle[3]
        position = 2 * index if kind == "resnets" else 2 * index + 1  # residual, attention, residual
        return f"middle_block.{position}.{_renamed(rest, _UNET_RESNET) if kind == 'resnets' else rest}"
    if not (block := _BLOCK.fullmatch(name)):
        return _renamed(name, _UNET_ENDS)
    side, level, kind, index, rest = block[1], int(block[2]), block[3], int(block[4]), block[5]
    if side == "down":  # input block 0 is conv_in; each level ends with a downsampler
        prefix = f"input_blocks.{1 + level * (layers + 1) + (layers if kind == 'downsamplers' else index)}"
    else:  # an upsampler shares its block with the level's last residual
        prefix = f"output_blocks.{level * (layers + 1) + (layers if kind == 'upsamplers' else index)}"
    if kind == "resnets":
        return f"{prefix}.0.{_renamed(rest, _UNET_RESNET)}"
    if kind == "attentions":
        return f"{prefix}.1.{rest}"
    if kind == "downsamplers":
        return f"{prefix}.0.op.{rest.removeprefix('conv.')}"
    return f"{prefix}.{2 if 'CrossAttn' in config['up_block_types'][level] else 1}.{rest}"


def original_vae_name(name: str, config: Mapping[str, Any]) -> str:
    """A parameter of `AutoencoderKL` -> its original name, without `first_stage_model.`."""
    half, _, inner = name.partition(".")
    if half not in {"encoder", "decoder"}:
        return name
    if middle := _MIDDLE.fullmatch(inner):
        part = f"block_{int(middle[2]) + 1}" if middle[1] == "resnets" else "attn_1"
        return f"{half}.mid.{part}.{_renamed(middle[3], _VAE_LAYERS)}"
    if block := _BLOCK.fullmatch(inner):
        side, level, kind, index, rest = block[1], int(block[2]), block[3], block[4], block[5]
        if side == "up":  # the original counts a decoder's levels from the picture's side
            level = len(config["block_out_channels"]) - 1 - level
        part = f"block.{index}" if kind == "resnets" else f"{side}sample"
        return f"{half}.{side}.{level}.{part}.{_renamed(rest, _VAE_LAYERS)}"
    return f"{half}.{_renamed(inner, _VAE_LAYERS)}"


def original_text_name(name: str) -> str:
    """A parameter of `CLIPTextModel` -> its original name, without `cond_stage_model.transformer.text_model.`.

    transformers dropped the inner `text_model.` in 5.6; both spellings are read.
    """
    return name.removeprefix("text_model.")


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """`name` with its module path (all but the last word) looked up in `table`."""
    module, _, parameter = name.rpartition(".")
    return f"{table.get(module, module)}.{parameter}"


def unet_tensors(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The UNet's weights by original name, without prefix."""
    return {original_unet_name(name, unet.config): tensor for name, tensor in unet.state_dict().items()}


def vae_tensors(vae: AutoencoderKL) -> dict[str, Tensor]:
    """The autoencoder's weights by original name, without prefix; attention as the 1x1 convolutions it was."""
    named = {original_vae_name(name, vae.config): tensor for name, tensor in vae.state_dict().items()}
    return {name: t[:, :, None, None] if _VAE_ATTENTION.search(name) else t for name, t in named.items()}


def text_tensors(encoder: CLIPTextModel) -> dict[str, Tensor]:
    """The text encoder's weights by original name, without prefix."""
    return {original_text_name(name): tensor for name, tensor in encoder.state_dict().items()}


def empty_unet(tensors: Tensors, config: Mapping[str, Any], where: str) -> UNet2DConditionModel:
    """The UNet on the meta device, once these keys and shapes (original, without prefix) are those it needs.

    Raises:
        CheckpointError: keys missing, unexpected or of the wrong shape.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    check_keys(where, UNET_PREFIX, shapes_of(unet_tensors(unet)), tensors)
    return unet


def convert_unet(tensors: Tensors, config: Mapping[str, Any], where: str) -> UNet2DConditionModel:
    """The UNet from original tensors without prefix, float32, frozen; raises as `empty_unet` does."""
    unet = empty_unet(tensors, config, where)
    converted = convert_ldm_unet_checkpoint({UNET_PREFIX + key: t for key, t in tensors.items()}, dict(unet.config))
    if GUIDANCE_KEY in tensors:  # a distilled UNet's, which diffusers' conversion leaves out
        converted[_GUIDANCE_NAME] = tensors[GUIDANCE_KEY]
    return load_strictly(unet, converted, f"{where}: unet")


def empty_vae(tensors: Tensors, config: Mapping[str, Any], where: str, prefix: str = "") -> AutoencoderKL:
    """The autoencoder on the meta device, once these keys and shapes (original, without prefix) are those it needs.

    `prefix` is for messages.

    Raises:
        CheckpointError: keys missing, unexpected or of the wrong shape.
    """
    with torch.device("meta"):
        vae = AutoencoderKL(**config)
    check_keys(where, prefix, shapes_of(vae_tensors(vae)), tensors)
    return vae


def convert_vae(tensors: Tensors, config: Mapping[str, Any], where: str, prefix: str = "") -> AutoencoderKL:
    """The autoencoder from original tensors without prefix, float32, frozen; raises as `empty_vae` does."""
    vae = empty_vae(tensors, config, where, prefix)
    converted = convert_ldm_vae_checkpoint({VAE_PREFIX + key: t for key, t in tensors.items()}, dict(vae.config))
    return load_strictly(vae, converted, f"{where}: vae")


def empty_text_encoder(tensors: Tensors, config: Mapping[str, Any], where: str) -> CLIPTextModel:
    """The text encoder on the meta device, once these keys and shapes (original, without prefix) are those it needs.

    Raises:
        CheckpointError: keys missing, unexpected or of the wrong shape.
    """
    with torch.device("meta"):
        encoder = CLIPTextModel(CLIPTextConfig(**config))
    check_keys(where, TEXT_PREFIX, shapes_of(text_tensors(encoder)), tensors)
    return encoder


def convert_text_encoder(tensors: Tensors, config: Mapping[str, Any], where: str) -> CLIPTextModel:
    """The text encoder from original tensors without prefix, float32, frozen; raises as `empty_text_encoder` does."""
    encoder = empty_text_encoder(tensors, config, where)
    converted = convert_ldm_clip_checkpoint({TEXT_PREFIX + key: t for key, t in tensors.items()})
    return load_text_encoder(encoder, converted, f"{where}: text_encoder")


def load_text_encoder(encoder: CLIPTextModel, tensors: Tensors, where: str) -> CLIPTextModel:
    """`load_strictly` for a text encoder, whose names may have the inner `text_model.` or not."""
    inner = "text_model." if hasattr(encoder, "text_model") else ""
    named = {inner + key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}
    for module in encoder.modules():  # a buffer that no checkpoint restores
        if isinstance(getattr(module, "position_ids", None), Tensor):
            module.position_ids = torch.arange(encoder.config.max_position_embeddings)[None]
    return load_strictly(encoder, named, where)


def shapes_of(tensors: Tensors) -> Shapes:
    """The shapes of named tensors."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_keys(where: str, prefix: str, expected: Shapes, found: Tensors) -> None:
    """Compare what a file holds with what its architecture needs, in the file's own names.

    Raises:
        CheckpointError: lists the first ten of each kind of difference, and counts them all.
    """
    missing = [prefix + key for key in expected if key not in found]
    unexpected = [prefix + key for key in found if key not in expected]
    wrong = [
        f"{prefix}{key} (expected float {shape}, found {_kind(found[key])})"
        for key, shape in expected.items()
        if key in found and (tuple(found[key].shape) != shape or not found[key].is_floating_point())
    ]
    differences = [
        _listed(names, what)
        for names, what in ((missing, "missing"), (unexpected, "unexpected"), (wrong, "of the wrong shape or type"))
        if names
    ]
    if differences:
        raise CheckpointError(f"{where}: {'; '.join(differences)}; is it whole, and Stable Diffusion 1.x?")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _listed(names: list[str], what: str) -> str:
    more = f", … and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} key{'s' * (len(names) > 1)} {what}: {', '.join(names[:LISTED])}{more}"


def load_strictly(module: Module, tensors: Tensors, where: str) -> Module:
    """Give `module` (on the meta device) exactly these tensors as float32, and freeze it.

    A conversion may leave None where a key was missing, and a load may leave meta tensors: neither passes.
    """
    given = {key: tensor for key, tensor in tensors.items() if tensor is not None}
    check_keys(where, "", shapes_of(module.state_dict()), given)
    module.load_state_dict({key: t.float().contiguous() for key, t in given.items()}, assign=True)
    return freeze(module, where)


def freeze(module: Module, where: str) -> Module:
    """`module` in evaluation mode without gradients; CheckpointError where a tensor has no data."""
    empty = _without_data(chain(module.named_parameters(), module.named_buffers()))
    if empty:
        raise CheckpointError(f"{where}: {_listed(empty, 'without data')}; this is a defect of latentrt")
    return module.eval().requires_grad_(False)


def _without_data(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    return [name for name, tensor in named if tensor.is_meta]
