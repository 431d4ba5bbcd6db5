"""Read an autoencoder in any form, and tell whether another one differs from it in the decoder alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latentrt.engines.errors import CheckpointError

from . import diffusers_folder
from .architecture import Facts, KeyTable, parse_facts, vae_config
from .checkpoint import Checkpoint, read_checkpoint, split_vae
from .conversion import Tensors, convert_vae, shapes_of


@dataclass(frozen=True)
class Vae:
    """An autoencoder, float32 and frozen; `stored` is the precision of its file; the rest is provenance."""

    module: AutoencoderKL
    stored: torch.dtype
    file: str
    sha256: str
    ignored: dict[str, int]


def load_vae(path: Path, facts: Facts) -> Vae:
    """Read an autoencoder from a single file or a diffusers folder.

    `facts` are those of the model it is for: they hold where the file states none of its own.

    Raises:
        CheckpointError: it cannot be read, or is no autoencoder of Stable Diffusion 1.x.
    """
    if path.is_dir():
        part = diffusers_folder.load_vae(path)
        (file, sha256), *_ = part.files.items()
        return Vae(part.module, part.stored, file, sha256, {})
    checkpoint = read_checkpoint(path)
    tensors, ignored = split_vae(checkpoint)
    return build_vae(checkpoint, tensors, parse_facts(checkpoint.metadata, checkpoint.name) or facts, ignored=ignored)


def build_vae(
    checkpoint: Checkpoint, tensors: Tensors, facts: Facts, *, prefix: str = "", ignored: dict[str, int] | None = None
) -> Vae:
    """The autoencoder from original tensors without `prefix`."""
    table = KeyTable(checkpoint.name, "autoencoder", shapes_of(tensors))
    module = convert_vae(tensors, vae_config(table, facts.vae, facts.default_size), checkpoint.name, prefix)
    return Vae(module, coarsest_dtype(tensors), checkpoint.name, checkpoint.sha256, ignored or {})


def coarsest_dtype(tensors: Tensors) -> torch.dtype:
    """The floating type with the largest rounding among these tensors."""
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def check_only_decoder_differs(name: str, vae: Vae, main: Vae) -> None:
    """Refuse an autoencoder that cannot share the main one's encoder and latents.

    Raises:
        CheckpointError: other latent channels, or another encoder.
    """
    channels, expected = vae.module.config["latent_channels"], main.module.config["latent_channels"]
    if channels != expected:
        raise CheckpointError(
            f"--vae {name}={vae.file} has {channels} latent channels, the checkpoint's has {expected}"
        )
    ours, theirs = _encoder_tensors(main.module), _encoder_tensors(vae.module)
    different = [
        key for key in sorted(ours.keys() | theirs.keys()) if not _same(ours.get(key), theirs.get(key), main, vae)
    ]
    if different:
        raise CheckpointError(
            f"--vae {name}={vae.file}: its encoder is not the checkpoint's ({len(different)} of {len(ours)} tensors "
            f"differ, first {different[0]}); only the decoder may differ"
        )


def _encoder_tensors(vae: AutoencoderKL) -> dict[str, Tensor]:
    return {key: t for key, t in vae.state_dict().items() if key.startswith(("encoder.", "quant_conv."))}


def _same(a: Tensor | None, b: Tensor | None, main: Vae, vae: Vae) -> bool:
    """Equal bit for bit where stored in one precision, else within one unit of the coarser one's last place."""
    if a is None or b is None or a.shape != b.shape:
        return False
    if main.stored == vae.stored:
        return torch.equal(a, b)
    coarse = max(torch.finfo(main.stored), torch.finfo(vae.stored), key=lambda info: info.eps)
    return torch.allclose(a, b, rtol=coarse.eps, atol=coarse.smallest_normal * coarse.eps)
