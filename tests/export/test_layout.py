"""Sorting keys: what belongs to which network, what is ignored and counted, what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from latentrt.engines.errors import CheckpointError
from latentrt.export.checkpoint import read_checkpoint
from latentrt.export.layout import ignored_kind, split_networks, split_vae

KEY = "model.diffusion_model.out.2.bias"
EMA_KEY = "model_ema.diffusion_modelout2bias"
TENSORS = {
    KEY: torch.arange(4.0),
    "cond_stage_model.transformer.text_model.final_layer_norm.bias": torch.ones(3).half(),
}


def write(path: Path, content: Any) -> Path:
    (save_file if path.suffix == ".safetensors" else torch.save)(content, path)
    return path


# What `v1-5-pruned` may hold beside its networks.
LEFTOVERS = [
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
    "logvar",
    "model_ema.decay",
    "model_ema.num_updates",
    "loss.discriminator.main.0.weight",
    "first_stage_model.loss.logvar",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
]


def test_leftovers_of_training_are_ignored_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", TENSORS | {key: torch.zeros(1) for key in LEFTOVERS})
    networks = split_networks(read_checkpoint(path), None)
    assert networks.ignored == {"averaging counters": 2, "loss": 2, "position_ids": 1, "schedule buffers": 13}
    assert (list(networks.unet.keys), list(networks.text_encoder.keys)) == (["out.2.bias"], ["final_layer_norm.bias"])
    assert networks.weights == "as stored"


@pytest.mark.parametrize("key", [KEY, EMA_KEY, "first_stage_model.encoder.conv_in.weight", "betas2", "control_model.x"])
def test_weights_are_no_leftovers(key: str) -> None:
    assert ignored_kind(key) is None


@pytest.mark.parametrize(
    ("weights", "tensors", "expected", "said"),
    [
        (None, {KEY: 1.0}, 1.0, "as stored"),
        ("raw", {KEY: 1.0}, 1.0, "as stored"),
        (None, {KEY: 1.0, EMA_KEY: 2.0}, 2.0, "ema"),
        ("ema", {KEY: 1.0, EMA_KEY: 2.0}, 2.0, "ema"),
        ("raw", {KEY: 1.0, EMA_KEY: 2.0}, 1.0, "raw"),
        (None, {KEY: 1.0, "model_ema.decay": 0.5}, 1.0, "as stored"),
    ],
)
def test_the_asked_weights_are_taken(
    weights: Any, tensors: dict[str, float], expected: float, said: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.safetensors", {key: torch.full((4,), value) for key, value in tensors.items()})
    networks = split_networks(read_checkpoint(path), weights)
    assert (networks.unet.read()["out.2.bias"][0].item(), networks.weights) == (expected, said)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {KEY: 4, "model.diffusion_model.out.2.weight": 3, EMA_KEY: 4},
            "1 key missing: model_ema.diffusion_modelout2weight",
        ),
        ({KEY: 4, EMA_KEY: 5}, r"model_ema.diffusion_modelout2bias \(expected float \(4,\), found float32 \(5,\)\)"),
        ({KEY: 4, EMA_KEY: 4, "model_ema.x": 1}, "1 key unexpected: model_ema.x"),
        ({KEY: 4, "control_model.x": 1}, "1 unexpected keys, of no network.*control_model.x"),
        ({KEY: 4, "lora.": 1} | {f"z{i}": 1 for i in range(20)}, "21 unexpected keys.*and 11 more"),
        ({"decoder.conv_in.weight": 1, "encoder.conv_in.weight": 1}, "--vae NAME=PATH"),
        ({"lora_unet_x": 1}, "is no Stable Diffusion checkpoint.*found lora_unet_x"),
        ({"conditioner.embedders.0.x": 1}, "Stable Diffusion XL"),
        ({"cond_stage_model.model.x": 1, KEY: 4}, "Stable Diffusion 2"),
        ({}, "found none"),
    ],
)
def test_wrong_keys_are_listed(tensors: dict[str, int], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {key: torch.zeros(length) for key, length in tensors.items()})
    with pytest.raises(CheckpointError, match=message) as caught:
        split_networks(read_checkpoint(path), None)
    assert str(caught.value).startswith("a.safetensors")


def test_averaged_weights_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", TENSORS | {"model_ema.decay": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"a.safetensors has no averaged weights: .* leave out --weights"):
        split_networks(read_checkpoint(path), "ema")


def test_an_autoencoder_file_keeps_its_plain_keys(tmp_path: Path) -> None:
    keys = [
        "encoder.conv_in.weight",
        "post_quant_conv.bias",
        "loss.logvar",
        "model_ema.decay",
        "model_ema.encoderconv_inweight",
    ]
    path = write(tmp_path / "vae.ckpt", {"state_dict": {key: torch.zeros(1) for key in keys}, "epoch": 1})
    tensors, ignored = split_vae(read_checkpoint(path))
    assert list(tensors.keys) == keys[:2]
    assert ignored == {"averaged copies": 2, "loss": 1, "other entries": 1}


def test_another_file_is_no_autoencoder(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=re.escape("expected keys encoder.*, decoder.*, found model.diffusion_model")
    ):
        split_vae(read_checkpoint(write(tmp_path / "a.safetensors", {KEY: torch.zeros(1)})))
