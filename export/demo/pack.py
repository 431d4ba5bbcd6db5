"""Pack the demo model as SD 1.5 was shipped: one file with raw and averaged weights, refined autoencoders beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel

from latentrt.engines.errors import OutputError
from latentrt.engines.manifest import OWN_DECODER

from ..architecture import METADATA_KEY, Facts, TextFacts, UNetFacts, VaeFacts
from ..conversion import TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX, Tensors, text_tensors, unet_tensors, vae_tensors
from ..layout import EMA_PREFIX
from .config import Recipe
from .scenes import SIZE

CHECKPOINT_FILE = "demo.safetensors"
LICENCE = "Apache-2.0"  # trained from nothing, on scenes that this project's code draws
ENCODER = ("encoder.", "quant_conv.")


def compvis_state_dict(
    unet: UNet2DConditionModel, unet_ema: UNet2DConditionModel, vae: AutoencoderKL, text_encoder: CLIPTextModel
) -> dict[str, Tensor]:
    """The model under SD 1.5's original keys: weights float16 and contiguous, and the counters that LDM leaves."""
    recipe = Recipe()
    flat = UNET_PREFIX.removeprefix("model.")
    averaged = {EMA_PREFIX + (flat + key).replace(".", ""): t for key, t in unet_tensors(unet_ema).items()}
    positions = text_encoder.config.max_position_embeddings
    return {
        **_half(_prefixed(UNET_PREFIX, unet_tensors(unet))),
        **_half(averaged),
        **_half(_prefixed(VAE_PREFIX, vae_tensors(vae))),
        **_half(_prefixed(TEXT_PREFIX, text_tensors(text_encoder))),
        f"{EMA_PREFIX}decay": torch.tensor(recipe.detail.ema_decay),
        f"{EMA_PREFIX}num_updates": torch.tensor(recipe.diffusion.steps + recipe.detail.steps, dtype=torch.int32),
        f"{TEXT_PREFIX}embeddings.position_ids": torch.arange(positions)[None],  # (1, 77)
    }


def pack_demo(
    unet: UNet2DConditionModel,
    unet_ema: UNet2DConditionModel,
    vaes: dict[str, AutoencoderKL],
    text_encoder: CLIPTextModel,
    folder: Path,
) -> None:
    """Write the checkpoint and one `demo-vae-NAME.safetensors` for each refined autoencoder.

    Raises:
        OutputError: an encoder is not byte for byte that of "kl-f8", or a weight does not fit float16.
    """
    facts = demo_facts(unet, vaes[OWN_DECODER], text_encoder)
    files = {CHECKPOINT_FILE: compvis_state_dict(unet, unet_ema, vaes[OWN_DECODER], text_encoder)}
    halves = {name: _half(vae_tensors(vae)) for name, vae in vaes.items()}
    for name, tensors in halves.items():
        _check_same_encoder(name, tensors, halves[OWN_DECODER])
        if name != OWN_DECODER:
            files[f"demo-vae-{name}.safetensors"] = tensors
    folder.mkdir(parents=True, exist_ok=True)
    for file, tensors in files.items():
        _write(folder / file, tensors, facts)


def demo_facts(unet: UNet2DConditionModel, vae: AutoencoderKL, text_encoder: CLIPTextModel) -> Facts:
    """What the packed keys' shapes cannot tell."""
    return Facts(
        unet=UNetFacts(num_heads=unet.config["attention_head_dim"], norm_num_groups=unet.config["norm_num_groups"]),
        vae=VaeFacts(norm_num_groups=vae.config["norm_num_groups"]),
        text_encoder=TextFacts(num_attention_heads=text_encoder.config.num_attention_heads),
        default_size=SIZE,
        licence=LICENCE,
    )


def _prefixed(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def _half(tensors: Tensors) -> dict[str, Tensor]:
    """float16 on the CPU, contiguous, and no memory shared with the modules."""
    halves = {key: t.detach().to("cpu", torch.float16, copy=True).contiguous() for key, t in tensors.items()}
    for key, tensor in halves.items():
        if not torch.isfinite(tensor).all():
            raise OutputError(f"{key} has values that float16 cannot hold; train again before packing")
    return halves


def _check_same_encoder(name: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for key in own:
        if key.startswith(ENCODER) and not torch.equal(tensors[key], own[key]):
            raise OutputError(
                f"autoencoder {name}: {key} is not that of {OWN_DECODER}; only the decoder may be refined"
            )


def _write(file: Path, tensors: dict[str, Tensor], facts: Facts) -> None:
    """Write beside, then rename. One metadata key only: safetensors writes several in random order."""
    beside = file.with_suffix(".tmp")
    try:
        save_file(tensors, beside, metadata={METADATA_KEY: msgspec.json.encode(facts).decode()})
        beside.chmod(0o644)  # safetensors leaves 0600
        beside.replace(file)
    except OSError as error:
        raise OutputError(f"{file} cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
