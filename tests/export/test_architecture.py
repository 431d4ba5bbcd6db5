"""The architecture read from key shapes, against the published configurations of Stable Diffusion 1.5."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from latentrt.engines.errors import CheckpointError
from latentrt.export.architecture import (
    METADATA_KEY,
    Facts,
    KeyTable,
    Shapes,
    TextFacts,
    UNetFacts,
    VaeFacts,
    parse_facts,
    refuse_other_families,
    text_config,
    unet_config,
    vae_config,
)
from latentrt.export.conversion import UNET_PREFIX, VAE_PREFIX, shapes_of, text_tensors, unet_tensors, vae_tensors
from latentrt.export.demo.config import TEXT, UNET, VAE

# unet/config.json, vae/config.json and text_encoder/config.json as published with Stable Diffusion 1.5
SD15_UNET: dict[str, Any] = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
SD15_VAE: dict[str, Any] = {
    "act_fn": "silu",
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "scaling_factor": 0.18215,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
SD15_TEXT: dict[str, Any] = {
    "attention_dropout": 0.0,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
    "vocab_size": 49408,
}
INPAINTING = SD15_UNET | {"in_channels": 9}
ONE_LEVEL_WITHOUT_TEXT = SD15_UNET | {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 3,
    "cross_attention_dim": 40,
    "sample_size": 64,
}
# Well-known keys of v1-5-pruned-emaonly, so that both directions of this project's naming cannot be wrong together.
SD15_UNET_KEYS = {
    "time_embed.2.weight": (1280, 1280),
    "input_blocks.0.0.weight": (320, 4, 3, 3),
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "input_blocks.3.0.op.weight": (320, 320, 3, 3),
    "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
    "input_blocks.11.0.emb_layers.1.bias": (1280,),
    "middle_block.1.proj_in.weight": (1280, 1280, 1, 1),
    "middle_block.2.out_layers.3.weight": (1280, 1280, 3, 3),
    "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
    "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
    "output_blocks.8.2.conv.weight": (640, 640, 3, 3),
    "output_blocks.11.0.in_layers.0.weight": (640,),
    "out.2.weight": (4, 320, 3, 3),
}
SD15_VAE_KEYS = {
    "encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
    "encoder.down.2.downsample.conv.weight": (512, 512, 3, 3),
    "encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
    "encoder.norm_out.weight": (512,),
    "decoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
    "decoder.mid.block_2.conv1.weight": (512, 512, 3, 3),
    "decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
    "decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    "quant_conv.weight": (8, 8, 1, 1),
}


@functools.cache
def _modules() -> dict[str, Any]:
    with torch.device("meta"):
        return {
            "sd15": UNet2DConditionModel(**SD15_UNET),
            "inpainting": UNet2DConditionModel(**INPAINTING),
            "demo": UNet2DConditionModel(**UNET),
            "odd": UNet2DConditionModel(**ONE_LEVEL_WITHOUT_TEXT),
            "sd15-vae": AutoencoderKL(**SD15_VAE),
            "demo-vae": AutoencoderKL(**VAE),
            "sd15-text": CLIPTextModel(CLIPTextConfig(**SD15_TEXT)),
            "demo-text": CLIPTextModel(CLIPTextConfig(**TEXT)),
        }


def _table(shapes: Shapes) -> KeyTable:
    return KeyTable("file.safetensors", "network", shapes)


def _unet_shapes(name: str = "sd15") -> Shapes:
    return shapes_of(unet_tensors(_modules()[name]))


def _vae_shapes(name: str = "sd15-vae") -> Shapes:
    return shapes_of(vae_tensors(_modules()[name]))


def _text_shapes(name: str = "sd15-text") -> Shapes:
    return shapes_of(text_tensors(_modules()[name]))


def _stated(module: Any) -> dict[str, Any]:
    """The whole configuration, without diffusers' note of which values were left to their defaults."""
    return {key: value for key, value in module.config.items() if not key.startswith("_")}


@pytest.mark.parametrize(
    ("name", "facts", "size"),
    [
        ("sd15", UNetFacts(), 512),
        ("inpainting", UNetFacts(), 512),
        ("odd", UNetFacts(), 512),
        ("demo", UNetFacts(num_heads=4), 128),
    ],
)
def test_unet_architecture_is_the_published_one(name: str, facts: UNetFacts, size: int) -> None:
    with torch.device("meta"):
        detected = UNet2DConditionModel(**unet_config(_table(_unet_shapes(name)), facts, size))
    assert _stated(detected) == _stated(_modules()[name])


@pytest.mark.parametrize(("name", "groups", "size"), [("sd15-vae", 32, 512), ("demo-vae", 8, 128)])
def test_vae_architecture_is_the_published_one(name: str, groups: int, size: int) -> None:
    with torch.device("meta"):
        detected = AutoencoderKL(**vae_config(_table(_vae_shapes(name)), VaeFacts(norm_num_groups=groups), size))
    assert _stated(detected) == _stated(_modules()[name])


@pytest.mark.parametrize(
    ("name", "facts", "published"),
    [("sd15-text", TextFacts(), SD15_TEXT), ("demo-text", TextFacts(num_attention_heads=3), TEXT)],
)
def test_text_architecture_is_the_published_one(name: str, facts: TextFacts, published: dict[str, Any]) -> None:
    detected = CLIPTextConfig(**text_config(_table(_text_shapes(name)), facts))
    assert {key: getattr(detected, key) for key in published if key != "projection_dim"} == {
        key: value for key, value in published.items() if key != "projection_dim"
    }


def test_the_key_table_is_that_of_sd15() -> None:
    assert (len(_unet_shapes()), len(_vae_shapes()), len(_text_shapes())) == (686, 248, 196)
    assert {key: _unet_shapes().get(key) for key in SD15_UNET_KEYS} == SD15_UNET_KEYS
    assert {key: _vae_shapes().get(key) for key in SD15_VAE_KEYS} == SD15_VAE_KEYS


class _Tagged:
    """Stands for a module: each weight is filled with its own number, and takes no memory."""

    def __init__(self, module: Any) -> None:
        self.config = module.config
        self.tensors = {
            key: torch.full((1,), float(i)).expand(tensor.shape)
            for i, (key, tensor) in enumerate(module.state_dict().items())
        }

    def state_dict(self) -> dict[str, Tensor]:
        return self.tensors

    def equals(self, tensors: dict[str, Tensor]) -> bool:
        return {k: (t[(0,) * t.ndim].item(), t.shape) for k, t in tensors.items()} == {
            k: (t[(0,) * t.ndim].item(), t.shape) for k, t in self.tensors.items()
        }


@pytest.mark.parametrize("name", ["sd15", "inpainting", "demo", "odd"])
def test_unet_names_are_the_inverse_of_diffusers_conversion(name: str) -> None:
    tagged = _Tagged(_modules()[name])
    original = {UNET_PREFIX + key: t for key, t in unet_tensors(tagged).items()}  # type: ignore[arg-type]
    assert tagged.equals(convert_ldm_unet_checkpoint(original, dict(tagged.config)))


@pytest.mark.parametrize("name", ["sd15-vae", "demo-vae"])
def test_vae_names_are_the_inverse_of_diffusers_conversion(name: str) -> None:
    tagged = _Tagged(_modules()[name])
    original = {VAE_PREFIX + key: t for key, t in vae_tensors(tagged).items()}  # type: ignore[arg-type]
    assert tagged.equals(convert_ldm_vae_checkpoint(original, dict(tagged.config)))


def test_one_missing_key_leaves_the_architecture_known_or_is_named() -> None:
    all_shapes, named = _unet_shapes("demo"), set()
    whole = unet_config(_table(all_shapes), UNetFacts(num_heads=4), 128)
    for key in all_shapes:
        shapes = {k: s for k, s in all_shapes.items() if k != key}
        try:
            assert unet_config(_table(shapes), UNetFacts(num_heads=4), 128) == whole, key
        except CheckpointError as error:
            named.add(key if key in str(error) else f"{key} is not named")
    assert named == {"input_blocks.0.0.weight"}


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ("not json", "malformed"),
        (json.dumps({"unet": {"heads": 4}}), "heads"),
        (json.dumps({"unet": {"num_heads": 0}}), "num_heads"),
        (json.dumps({"default_size": 100}), "multiple"),
        (json.dumps({"prediction_type": "sample"}), "sample"),
        (json.dumps([]), "array"),
    ],
)
def test_wrong_metadata_is_refused(stated: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        parse_facts({METADATA_KEY: stated}, "file.safetensors")
    assert str(caught.value).startswith("file.safetensors")


def test_metadata_gives_what_shapes_cannot_tell() -> None:
    stated = {"unet": {"num_heads": 4, "norm_num_groups": 16}, "vae": {"norm_num_groups": 8}, "default_size": 128}
    facts = parse_facts({METADATA_KEY: json.dumps(stated)}, "file")
    assert facts == Facts(
        unet=UNetFacts(num_heads=4, norm_num_groups=16), vae=VaeFacts(norm_num_groups=8), default_size=128
    )
    assert parse_facts({"format": "pt"}, "file") is None


@pytest.mark.parametrize(
    ("facts", "message"),
    [(UNetFacts(norm_num_groups=48), "norm_num_groups = 48"), (UNetFacts(num_heads=7), "num_heads = 7")],
)
def test_facts_that_cannot_be_are_refused(facts: UNetFacts, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        unet_config(_table(_unet_shapes()), facts, 512)


@pytest.mark.parametrize(
    ("key", "width", "family"),
    [
        ("conditioner.embedders.1.model.ln_final.bias", None, "Stable Diffusion XL"),
        ("model.diffusion_model.label_emb.0.0.weight", None, "Stable Diffusion XL"),
        ("cond_stage_model.model.ln_final.bias", None, r"Stable Diffusion 2\.x"),
        ("model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.bias", None, "Stable Diffusion 3"),
        ("out.2.bias", 1024, r"Stable Diffusion 2\.x"),
        ("out.2.bias", 2048, "Stable Diffusion XL"),
    ],
)
def test_other_families_are_refused_by_name(key: str, width: int | None, family: str) -> None:
    with pytest.raises(CheckpointError, match=family):
        refuse_other_families("file", [key], width)
