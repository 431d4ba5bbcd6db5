"""Whole models from one file: every form gives the same networks, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from latentrt.engines.errors import CheckpointError
from latentrt.export.demo.pack import pack_demo
from latentrt.export.source import load_source
from support.checkpoints import (
    TINY_TEXT,
    TINY_UNET,
    TINY_VAE,
    drop,
    edited,
    halved,
    put,
    same,
    without_averages,
)


@pytest.mark.parametrize("weights", [None, "raw"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_pickle_with_one_set_of_weights(weights: Any, wrapped: bool, packed: Path, tmp_path: Path) -> None:
    """v1-5-pruned-emaonly.ckpt: averaged weights under plain names, and no metadata, so SD 1.5's facts hold."""
    unet = UNet2DConditionModel(**TINY_UNET | {"attention_head_dim": 8, "sample_size": 64})
    vae = AutoencoderKL(**TINY_VAE | {"block_out_channels": (32, 32), "norm_num_groups": 32})
    text = CLIPTextModel(CLIPTextConfig(**TINY_TEXT | {"num_attention_heads": 1}))
    pack_demo(unet, unet, {"kl-f8": vae}, text, tmp_path)
    file = without_averages(load_file(tmp_path / "demo.safetensors"))
    torch.save({"state_dict": file, "global_step": 1} if wrapped else file, tmp_path / "emaonly.ckpt")
    source = load_source(tmp_path / "emaonly.ckpt", vaes={}, weights=weights)
    assert same(source.unet.load(), halved(unet))
    assert (source.unet.config["attention_head_dim"], source.facts.default_size) == (8, 512)
    assert (source.provenance["weights"], source.licence_name) == ("as stored", "CreativeML OpenRAIL-M")


U, V, T = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
RES = f"{U}input_blocks.1.0.in_layers.2.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: drop(f"{U}out.0.weight")(without_averages(f)), f"1 key missing: {U}out.0.weight"),
        (drop("model_ema.diffusion_modelout0weight"), "1 key missing: model_ema.diffusion_modelout0weight"),
        (drop(f"{V}decoder.mid.attn_1.q.weight"), f"1 key missing: {V}decoder.mid.attn_1.q.weight"),
        (drop(f"{T}encoder.layers.1.mlp.fc2.bias"), f"1 key missing: {T}encoder.layers.1.mlp.fc2.bias"),
        (put(**{f"{V}decoder.extra": torch.ones(1)}), f"1 key unexpected: {V}decoder.extra"),
        (put(**{f"{T}extra": torch.ones(1)}), f"1 key unexpected: {T}extra"),
        (
            lambda f: put(**{RES: torch.ones(32, 32, 1, 1)})(without_averages(f)),
            r"expected float \(32, 32, 3, 3\), found float32 \(32, 32, 1, 1\)",
        ),
        (put(**{f"{T}final_layer_norm.bias": torch.ones(24).int()}), r"expected float \(24,\), found int32 \(24,\)"),
        (
            lambda f: {k: t for k, t in f.items() if not k.startswith(V + "decoder.up")},
            r"\d+ keys missing: .*, … and \d+ more",
        ),
        (
            lambda f: {k: t for k, t in f.items() if not k.startswith(V)},
            "the autoencoder's architecture cannot be read",
        ),
        (
            lambda f: {k: t for k, t in f.items() if not k.startswith(T)},
            "the text encoder's architecture cannot be read",
        ),
        (lambda f: {k: t for k, t in f.items() if k.startswith(V)}, "is no Stable Diffusion checkpoint"),
        (
            lambda f: {
                k: torch.ones(t.shape[0], 1024).half() if ".attn2.to_k" in k or ".attn2.to_v" in k else t
                for k, t in without_averages(f).items()
            },
            r"is Stable Diffusion 2\.x",
        ),
        (
            lambda f: {
                k: t[:, :20].clone() if ".attn2.to_k" in k or ".attn2.to_v" in k else t
                for k, t in without_averages(f).items()
            },
            "the UNet expects texts 20 wide, its text encoder gives 24",
        ),
        (put(**{"conditioner.embedders.0.x": torch.ones(1)}), "is Stable Diffusion XL"),
    ],
)
def test_a_file_that_does_not_fit_is_named(change: Any, message: str, packed: Path, tmp_path: Path) -> None:
    path = edited(packed / "demo.safetensors", tmp_path / "edited.safetensors", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_source(path, vaes={})
    assert str(caught.value).startswith("edited.safetensors")
    assert "\n" not in str(caught.value)


def test_metadata_changes_heads_and_prediction_type(packed: Path, tmp_path: Path) -> None:
    facts = {"unet": {"num_heads": 2}, "prediction_type": "v_prediction", "default_size": 256}
    source = load_source(edited(packed / "demo.safetensors", tmp_path / "v.safetensors", dict, facts), vaes={})
    assert source.unet.config["attention_head_dim"] == 2
    assert (source.facts.prediction_type, source.facts.default_size) == ("v_prediction", 256)
