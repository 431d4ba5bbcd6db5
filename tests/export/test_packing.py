"""Packing the demo model: through diffusers' own conversion and back, the same weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file
from torch import nn

from latentrt.engines.errors import LatentrtError
from latentrt.export.demo.config import TEXT, UNET, VAE
from latentrt.export.demo.pack import pack_demo
from latentrt.export.source import load_source
from support.checkpoints import (
    TINY_VAE,
    fresh,
    halved,
    is_frozen,
    same,
    tiny,
)


@torch.no_grad()
def test_the_demo_model_survives_packing(tmp_path: Path) -> None:
    """Through diffusers' own conversion: the same float16 weights bit for bit, so the same outputs bit for bit."""
    modules = fresh(UNET, VAE, TEXT)
    pack_demo(**modules, folder=tmp_path)
    paths = {name: tmp_path / f"demo-vae-{name}.safetensors" for name in ("ft-ema", "ft-mse")}
    source = load_source(tmp_path / "demo.safetensors", vaes=paths)
    unet, text_encoder = source.unet.load(), source.text_encoder.load()
    vaes = {name: vae.load() for name, vae in source.vaes.items()}
    assert dict(unet.config) == dict(modules["unet"].config)
    assert list(source.vaes) == ["kl-f8", "ft-ema", "ft-mse"]
    pairs: list[tuple[nn.Module, nn.Module]] = [(unet, modules["unet_ema"])]
    pairs += [(text_encoder, modules["text_encoder"])]
    pairs += [(vaes[name], module) for name, module in modules["vaes"].items()]
    for loaded, original in pairs:
        assert same(loaded, halved(original))
        assert is_frozen(loaded)
        original.load_state_dict(halved(original))
        original.eval()
    ids = source.tokenizer(["a red circle"], padding="max_length", return_tensors="pt").input_ids  # (1, 77)
    context = text_encoder(ids).last_hidden_state  # (1, 77, 96)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(context, modules["text_encoder"](ids).last_hidden_state)
    assert torch.equal(unet(latents, 7, context).sample, modules["unet_ema"](latents, 7, context).sample)
    for name, vae in vaes.items():
        image = vae.decode(latents).sample  # (1, 3, 64, 64)
        assert torch.equal(image, modules["vaes"][name].decode(latents).sample)
        assert torch.equal(vae.encode(image).latent_dist.mean, modules["vaes"][name].encode(image).latent_dist.mean)


@pytest.mark.parametrize(("weights", "name"), [("ema", "unet_ema"), ("raw", "unet")])
def test_the_asked_weights_are_loaded_as_diffusers_converts_them(weights: Any, name: str, packed: Path) -> None:
    file = load_file(packed / "demo.safetensors")
    unet = load_source(packed / "demo.safetensors", vaes={}, weights=weights).unet.load()
    # diffusers looks for averaged weights from 100 keys up
    converted = convert_ldm_unet_checkpoint(file, dict(unet.config), extract_ema=weights == "ema")
    assert same(unet, {key: tensor.float() for key, tensor in converted.items()})
    assert same(unet, halved(tiny()[name]))


def test_refined_autoencoders_share_every_byte_of_the_encoder(packed: Path) -> None:
    prefix = "first_stage_model."
    main = load_file(packed / "demo.safetensors")
    own = {key.removeprefix(prefix): tensor for key, tensor in main.items() if key.startswith(prefix)}
    for name in ("ft-ema", "ft-mse"):
        refined = load_file(packed / f"demo-vae-{name}.safetensors")
        assert refined.keys() == own.keys()
        differs = {key.partition(".")[0] for key in own if not torch.equal(own[key], refined[key])}
        assert differs == {"decoder"}
        converted = convert_ldm_vae_checkpoint(refined, TINY_VAE)
        assert {key: t.dtype for key, t in converted.items()} == dict.fromkeys(converted, torch.float16)


def test_packing_twice_gives_the_same_bytes(packed: Path, tmp_path: Path) -> None:
    pack_demo(**tiny(), folder=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in packed.iterdir())
    assert all((tmp_path / path.name).read_bytes() == path.read_bytes() for path in packed.iterdir())


@pytest.mark.parametrize("change", ["encoder", "overflow"])
def test_what_may_not_be_packed(change: str, tmp_path: Path) -> None:
    modules = tiny() | {"vaes": copy.deepcopy(tiny()["vaes"])}
    weight = (
        modules["vaes"]["ft-mse"].encoder.conv_in.weight
        if change == "encoder"
        else modules["vaes"]["kl-f8"].decoder.conv_in.weight
    )
    weight.data += 1e-2 if change == "encoder" else 1e6
    with pytest.raises(
        LatentrtError, match="only the decoder may be refined" if change == "encoder" else "float16 cannot hold"
    ):
        pack_demo(**modules, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()
