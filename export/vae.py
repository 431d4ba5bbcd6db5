"""Find an autoencoder in any form, and tell whether another one differs from it in the decoder alone."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latentrt.engines.errors import CheckpointError

from . import diffusers_folder
from .architecture import Facts, KeyTable, parse_facts, vae_config
from .checkpoint import Section, read_checkpoint
from .conversion import convert_vae, empty_vae, shapes_of
from .layout import split_vae
from .stored import StoredNetwork, coarsest_dtype

StoredVae = StoredNetwork[AutoencoderKL]


def find_vae(path: Path, facts: Facts, variant: str | None = None) -> StoredVae:
    """An autoencoder in a single file or a diffusers folder.

    `facts` are those of the model it is for: they hold where the file states none of its own.

    Raises:
        CheckpointError: it cannot be read, or is no autoencoder of Stable Diffusion 1.x.
    """
    if path.is_dir():
        return diffusers_folder.stored_vae(path, variant)
    checkpoint = read_checkpoint(path)
    section, ignored = split_vae(checkpoint)
    return stored_vae(section, parse_facts(checkpoint.metadata, checkpoint.name) or facts, ignored=ignored)


def stored_vae(section: Section, facts: Facts, *, prefix: str = "", ignored: dict[str, int] | None = None) -> StoredVae:
    """The autoencoder under original names without `prefix`."""
    where, tensors = section.checkpoint.name, section.tensors
    config = vae_config(KeyTable(where, "autoencoder", shapes_of(tensors)), facts.vae, facts.default_size)

    def empty() -> AutoencoderKL:
        return empty_vae(tensors, config, where, prefix)

    def load() -> AutoencoderKL:
        return convert_vae(section.read(), config, where, prefix)

    hashes = {where: section.checkpoint.sha256}
    return StoredNetwork(empty().config, empty, load, coarsest_dtype(tensors), hashes, ignored or {})


def shares_encoder(vae: StoredVae, main: StoredVae, where: str) -> bool:
    """Whether an autoencoder's encoder is the main one's; `where` names it in messages.

    Raises:
        CheckpointError: it has other latent channels, so it cannot serve the same UNet.
    """
    channels, expected = vae.config["latent_channels"], main.config["latent_channels"]
    if channels != expected:
        raise CheckpointError(f"{where} has {channels} latent channels, the model's own autoencoder has {expected}")
    ours, theirs = encoder_tensors(main.load()), encoder_tensors(vae.load())
    return ours.keys() == theirs.keys() and all(
        same_weights(ours[key], theirs[key], main.dtype, vae.dtype) for key in ours
    )


def encoder_tensors(vae: AutoencoderKL) -> dict[str, Tensor]:
    """The weights by which pictures become latents."""
    return {key: t for key, t in vae.state_dict().items() if key.startswith(("encoder.", "quant_conv."))}


def same_weights(a: Tensor, b: Tensor, stored_a: torch.dtype, stored_b: torch.dtype) -> bool:
    """Equal bit for bit where stored in one precision, else within one unit of the coarser one's last place."""
    if a.shape != b.shape:
        return False
    if stored_a == stored_b:
        return torch.equal(a, b)
    coarse = max(torch.finfo(stored_a), torch.finfo(stored_b), key=lambda info: info.eps)
    return torch.allclose(a, b, rtol=coarse.eps, atol=coarse.smallest_normal * coarse.eps)
