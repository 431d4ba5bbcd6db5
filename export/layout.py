"""Sort a checkpoint's keys into the networks of Stable Diffusion 1.x, in the original (CompVis) layout."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from latentrt.engines.errors import CheckpointError

from .architecture import GUIDANCE_KEY, refuse_other_families
from .checkpoint import Checkpoint, Section
from .conversion import LISTED, TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX, check_keys, shapes_of

EMA_PREFIX = "model_ema."

Weights = Literal["ema", "raw"]

_IGNORED = {  # what training left in the file: kind -> keys
    "averaging counters": re.compile(r"model_ema\.(decay|num_updates)"),
    "schedule buffers": re.compile(
        r"betas|(log_one_minus_|sqrt_|sqrt_one_minus_|sqrt_recip_|sqrt_recipm1_)?alphas_cumprod|alphas_cumprod_prev"
        r"|posterior_\w+|lvlb_weights|logvar|scale_factor"
    ),
    "loss": re.compile(r"(first_stage_model\.)?loss\..+"),
    "position_ids": re.compile(r".+\.position_ids"),
}
# Tools that write LCM in one file know the layer's name in diffusers only.
_OTHER_NAMES = {"time_embedding.cond_proj.weight": GUIDANCE_KEY}


@dataclass(frozen=True)
class Networks:
    """A checkpoint's keys network by network, prefixes removed, and what was left out, kind by kind."""

    unet: Section
    vae: Section
    text_encoder: Section
    weights: Literal["ema", "raw", "as stored"]
    ignored: dict[str, int]


def ignored_kind(key: str) -> str | None:
    """What kind of training leftover a key is; None for all others."""
    return next((kind for kind, pattern in _IGNORED.items() if pattern.fullmatch(key)), None)


def split_networks(checkpoint: Checkpoint, weights: Weights | None) -> Networks:
    """Sort a Stable Diffusion 1.x checkpoint's keys; of two sets of UNet weights, take the one asked for.

    With None that is the averaged one where the file has it, else the only one.

    Raises:
        CheckpointError: another family, no UNet, averaged weights asked for but absent or incomplete, or keys that
            belong nowhere.
    """
    where, tensors = checkpoint.name, checkpoint.tensors
    refuse_other_families(where, tensors)
    kinds = {key: ignored_kind(key) for key in tensors}
    kept = [key for key in tensors if kinds[key] is None]
    raw = {_OTHER_NAMES.get(name, name): key for name, key in _under(UNET_PREFIX, kept).items()}
    if not raw:
        hint = "; an autoencoder is given with --vae NAME=PATH" if "decoder.conv_in.weight" in tensors else ""
        raise CheckpointError(
            f"{where} is no Stable Diffusion checkpoint: expected keys {UNET_PREFIX}*, "
            f"found {', '.join(list(tensors)[:3]) or 'none'}{hint}"
        )
    averaged = _under(EMA_PREFIX, kept)
    if weights == "ema" and not averaged:
        raise CheckpointError(
            f"{where} has no averaged weights: expected keys {EMA_PREFIX}*, found none; leave out --weights to export "
            "the one set it has, which in a file called emaonly is the averaged one"
        )
    prefixes = (UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX, EMA_PREFIX)
    _refuse_strangers(where, (key for key in kept if not key.startswith(prefixes)))
    unet = _averaged_unet(checkpoint, raw, averaged) if averaged and weights != "raw" else raw
    return Networks(
        unet=Section(checkpoint, unet),
        vae=Section(checkpoint, _under(VAE_PREFIX, kept)),
        text_encoder=Section(checkpoint, _under(TEXT_PREFIX, kept)),
        weights=(weights or "ema") if averaged else "as stored",
        ignored=count_ignored(kinds.values(), checkpoint.extra),
    )


def split_vae(checkpoint: Checkpoint) -> tuple[Section, dict[str, int]]:
    """An autoencoder file's keys, and what was left out, kind by kind.

    Raises:
        CheckpointError: the keys are not those of an autoencoder.
    """
    tensors = checkpoint.tensors
    if not any(key.startswith(("encoder.", "decoder.")) for key in tensors):
        raise CheckpointError(
            f"{checkpoint.name} is no autoencoder: expected keys encoder.*, decoder.*, "
            f"found {', '.join(list(tensors)[:3]) or 'none'}"
        )
    # Published autoencoder files hold the averaged weights under the plain names, whatever else they hold.
    kinds = {k: "averaged copies" if k.startswith(EMA_PREFIX) else ignored_kind(k) for k in tensors}
    kept = {key: key for key in tensors if kinds[key] is None}
    return Section(checkpoint, kept), count_ignored(kinds.values(), checkpoint.extra)


def count_ignored(kinds: Iterable[str | None], extra: int) -> dict[str, int]:
    """How many keys of each kind were left out, sorted by kind."""
    counts = Counter(kind for kind in kinds if kind is not None)
    counts.update({"other entries": extra} if extra else {})
    return dict(sorted(counts.items()))


def _under(prefix: str, keys: Iterable[str]) -> dict[str, str]:
    """The keys that start with `prefix`, by what follows it."""
    return {key.removeprefix(prefix): key for key in keys if key.startswith(prefix)}


def _averaged_unet(checkpoint: Checkpoint, raw: Mapping[str, str], averaged: Mapping[str, str]) -> dict[str, str]:
    """The averaged weights under their plain names: LDM's `LitEma` keeps them without the dots of theirs."""
    flat = {name: (UNET_PREFIX.removeprefix("model.") + name).replace(".", "") for name in raw}
    expected = {flat[name]: shape for name, shape in shapes_of(Section(checkpoint, raw).tensors).items()}
    found: dict[str, Tensor] = Section(checkpoint, averaged).tensors
    check_keys(checkpoint.name, EMA_PREFIX, expected, found)
    return {name: averaged[flat[name]] for name in raw}


def _refuse_strangers(where: str, keys: Iterable[str]) -> None:
    strangers = list(keys)
    if strangers:
        more = f", … and {len(strangers) - LISTED} more" if len(strangers) > LISTED else ""
        raise CheckpointError(
            f"{where}: {len(strangers)} unexpected keys, of no network of Stable Diffusion 1.x: "
            f"{', '.join(strangers[:LISTED])}{more}"
        )
