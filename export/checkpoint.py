"""Read a single-file checkpoint without trusting it, and sort its keys into the networks of Stable Diffusion."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latentrt.engines.errors import CheckpointError

from .architecture import refuse_other_families
from .conversion import LISTED, TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX, check_keys, shapes_of

PICKLES = (".ckpt", ".pt", ".bin")
SUFFIXES = (".safetensors", *PICKLES)
MAX_HEADER_BYTES = 16 * 2**20  # SD 1.5's safetensors header is some 200 KB
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
_GLOBAL = re.compile(r"unsupported global:? (?:GLOBAL )?([\w.]+)", re.IGNORECASE)  # in torch's messages


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one file by key, as stored; `extra` counts entries that are no tensors."""

    name: str
    sha256: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    extra: int = 0


@dataclass(frozen=True)
class Networks:
    """A checkpoint's tensors network by network, prefixes removed, and what was left out, kind by kind."""

    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    text_encoder: dict[str, Tensor]
    weights: Literal["ema", "raw", "as stored"]
    ignored: dict[str, int]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a safetensors file, or a pickle of plain tensors (`state_dict` wrapper or none). Nothing in it is executed.

    Tensors are mapped, not copied, wherever the file's form allows.

    Raises:
        CheckpointError: absent, of an unknown suffix, truncated, corrupt, or a pickle of anything but plain data.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"{path} is no checkpoint: expected a file ending in {', '.join(SUFFIXES)}")
    try:
        sha256 = file_sha256(path)
        if path.suffix.lower() in PICKLES:
            entries: Mapping[Any, Any] = _read_pickle(path)
            metadata: dict[str, str] = {}
        else:
            check_safetensors_length(path)
            entries, metadata = _read_safetensors(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    tensors = {key: value for key, value in entries.items() if isinstance(key, str) and _is_plain(value)}
    return Checkpoint(path.name, sha256, tensors, metadata, len(entries) - len(tensors))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_safetensors_length(path: Path) -> None:
    """Compare a safetensors file's length with what its header declares.

    Raises:
        CheckpointError: names the file, the expected and the actual length.
    """
    actual = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if actual < 8 or length > MAX_HEADER_BYTES:
            raise CheckpointError(f"{path} is not a safetensors file: its header would have {length} bytes of {actual}")
        header = file.read(length)
    if len(header) < length:
        raise CheckpointError(
            f"{path} is truncated: expected {8 + length} bytes or more, found {actual}; copy it again"
        )
    expected = 8 + length + _declared_bytes(path, header)
    if actual != expected:
        what = "truncated" if actual < expected else "longer than its header declares"
        raise CheckpointError(f"{path} is {what}: expected {expected} bytes, found {actual}; copy it again")


def _declared_bytes(path: Path, header: bytes) -> int:
    try:
        entries = json.loads(header)
        return max((int(e["data_offsets"][1]) for key, e in entries.items() if key != "__metadata__"), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: its header is not a table of tensors") from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a valid safetensors file: {one_line(error)}") from error


def _read_pickle(path: Path) -> Mapping[Any, Any]:
    try:
        # Only zip archives can be mapped; torch 1.x wrote bare pickles.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is refused: {_why_refused(error)}; ask for a .safetensors file") from error
    except Exception as error:  # a damaged pickle may raise anything
        size = path.stat().st_size
        raise CheckpointError(f"{path} is damaged or no checkpoint ({size} bytes): {one_line(error)}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        outside = {("outside state_dict", key): value for key, value in content.items() if key != "state_dict"}
        return {**content["state_dict"], **outside}
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} is no checkpoint: expected a table of tensors, found {type(content).__name__}")
    return content


def _why_refused(error: Exception) -> str:
    """PyTorch's own message is not shown: it explains how to load the file unsafely."""
    if found := _GLOBAL.search(str(error)):
        return f"it is a pickle that asks for {found[1]!r}, and only plain tensors are read"
    return "it is not a pickle of plain tensors"


def one_line(error: Exception) -> str:
    """What a library says, on one line and no longer than a message may be."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _is_plain(value: object) -> bool:
    """A dense tensor that has its data (a pickle may also hold sparse and meta tensors)."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def ignored_kind(key: str) -> str | None:
    """What kind of training leftover a key is; None for all others."""
    return next((kind for kind, pattern in _IGNORED.items() if pattern.fullmatch(key)), None)


def split_networks(checkpoint: Checkpoint, weights: Weights) -> Networks:
    """Sort a Stable Diffusion 1.x checkpoint's keys; of two sets of UNet weights, take the one asked for.

    Raises:
        CheckpointError: another family, no UNet, averaged weights incomplete, or keys that belong nowhere.
    """
    where, tensors = checkpoint.name, checkpoint.tensors
    refuse_other_families(where, tensors)
    kinds = {key: ignored_kind(key) for key in tensors}
    kept = {key: tensor for key, tensor in tensors.items() if kinds[key] is None}
    raw = _under(UNET_PREFIX, kept)
    if not raw:
        hint = "; an autoencoder is given with --vae NAME=PATH" if "decoder.conv_in.weight" in tensors else ""
        raise CheckpointError(
            f"{where} is no Stable Diffusion checkpoint: expected keys {UNET_PREFIX}*, "
            f"found {', '.join(list(tensors)[:3]) or 'none'}{hint}"
        )
    averaged = _under(EMA_PREFIX, kept)
    prefixes = (UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX, EMA_PREFIX)
    _refuse_strangers(where, (key for key in kept if not key.startswith(prefixes)))
    return Networks(
        unet=_averaged_unet(where, raw, averaged) if averaged and weights == "ema" else raw,
        vae=_under(VAE_PREFIX, kept),
        text_encoder=_under(TEXT_PREFIX, kept),
        weights=weights if averaged else "as stored",
        ignored=count_ignored(kinds.values(), checkpoint.extra),
    )


def split_vae(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, int]]:
    """An autoencoder file's tensors, and what was left out, kind by kind.

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
    kept = {key: tensor for key, tensor in tensors.items() if kinds[key] is None}
    return kept, count_ignored(kinds.values(), checkpoint.extra)


def count_ignored(kinds: Iterable[str | None], extra: int) -> dict[str, int]:
    """How many keys of each kind were left out, sorted by kind."""
    counts = Counter(kind for kind in kinds if kind is not None)
    counts.update({"other entries": extra} if extra else {})
    return dict(sorted(counts.items()))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _averaged_unet(where: str, raw: Mapping[str, Tensor], averaged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights under their plain names: LDM's `LitEma` keeps them without the dots of theirs."""
    flat = {key: (UNET_PREFIX.removeprefix("model.") + key).replace(".", "") for key in raw}
    check_keys(where, EMA_PREFIX, {flat[key]: shape for key, shape in shapes_of(raw).items()}, averaged)
    return {key: averaged[flat[key]] for key in raw}


def _refuse_strangers(where: str, keys: Iterable[str]) -> None:
    strangers = list(keys)
    if strangers:
        more = f", … and {len(strangers) - LISTED} more" if len(strangers) > LISTED else ""
        raise CheckpointError(
            f"{where}: {len(strangers)} unexpected keys, of no network of Stable Diffusion 1.x: "
            f"{', '.join(strangers[:LISTED])}{more}"
        )
