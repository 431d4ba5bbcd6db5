"""Autoencoders in every form: what may join a model, and with what of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from latentrt.engines.errors import CheckpointError
from latentrt.export.source import load_source
from latentrt.export.wrappers import network_loaders
from support.checkpoints import (
    TINY_VAE,
    VAE_FILE,
    drop,
    edited,
    put,
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("decoder.conv_out.bias"), "1 key missing: decoder.conv_out.bias"),
        (drop("encoder.mid.attn_1.k.bias"), "1 key missing: encoder.mid.attn_1.k.bias"),
    ],
)
def test_an_autoencoder_that_does_not_fit_is_named(change: Any, message: str, packed: Path, tmp_path: Path) -> None:
    path = edited(packed / VAE_FILE, tmp_path / "other.safetensors", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_source(packed / "demo.safetensors", vaes={"mine": path})
    assert "other.safetensors" in str(caught.value)


def test_other_latent_channels_are_refused(packed: Path, tmp_path: Path) -> None:
    AutoencoderKL(**TINY_VAE | {"latent_channels": 8}).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has 8 latent channels, the model's own autoencoder has 4"):
        load_source(packed / "demo.safetensors", vaes={"mine": tmp_path})


def test_an_encoder_that_differs_comes_along(packed: Path, tmp_path: Path) -> None:
    change = put(**{"encoder.conv_in.bias": torch.ones(8).half()})
    path = edited(packed / VAE_FILE, tmp_path / "other.safetensors", change)
    source = load_source(packed / "demo.safetensors", vaes={"mine": path, "ft-mse": packed / VAE_FILE})
    assert source.encoders == ("mine",)
    assert [name for name in network_loaders(source) if "encoder." in name] == ["vae_encoder.mine"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_encoder_stored_in_another_precision_is_thesame(dtype: torch.dtype, packed: Path, tmp_path: Path) -> None:
    vae = {key: tensor.to(dtype) for key, tensor in load_file(packed / VAE_FILE).items()}
    torch.save({"state_dict": vae, "loss.logvar": torch.zeros(1)}, tmp_path / "vae.ckpt")
    source = load_source(packed / "demo.safetensors", vaes={"mine": tmp_path / "vae.ckpt"})
    assert torch.equal(source.vaes["mine"].load().decoder.conv_in.bias, vae["decoder.conv_in.bias"].float())
    assert source.provenance["vae.mine.ignored"] == "1 other entries"
