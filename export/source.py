"""The model that `export` starts from: its networks, still on disk, and the facts that travel with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from latentrt.engines.errors import CheckpointError, InputError
from latentrt.engines.hashing import combined_sha256
from latentrt.engines.manifest import (
    MAX_TOKENS,
    OWN_DECODER,
    ModelFacts,
    SchedulerFacts,
    encoder_component,
    is_decoder_name,
)

from . import diffusers_folder as folder_form
from .architecture import (
    SD_LICENCE,
    VAE_SCALE_FACTOR,
    Facts,
    Prediction,
    UNetFacts,
    VaeFacts,
    parse_facts,
    stated_prediction,
)
from .checkpoint import read_checkpoint
from .conversion import VAE_PREFIX
from .layout import Weights, split_networks
from .licence import find_licence, licence_name
from .safety_checker import SafetySource, find_safety_checker
from .single_file import original_text_encoder, original_unet
from .stored import StoredNetwork
from .vae import StoredVae, find_vae, shares_encoder, stored_vae
from .vocabulary import clip_tokenizer

NOTE = "note."  # the provenance that a user is told at once


@dataclass(frozen=True)
class SourceModel:
    """A whole Stable Diffusion 1.x model: networks that are read when they are asked for, and their facts."""

    text_encoder: StoredNetwork[CLIPTextModel]
    unet: StoredNetwork[UNet2DConditionModel]
    vaes: dict[str, StoredVae]  # the first is the checkpoint's own, "kl-f8"
    encoders: tuple[str, ...]  # the autoencoders, but the first, whose encoder is not the first one's
    tokenizer: CLIPTokenizer
    facts: ModelFacts
    scheduler: SchedulerFacts
    provenance: dict[str, str]  # file names and hashes, which weights, what was ignored; no paths, no times
    licence_name: str
    licence_files: dict[str, Path] = field(default_factory=dict)  # by their names in the bundle
    safety_checker: SafetySource | None = None


def load_source(
    path: Path,
    *,
    vaes: Mapping[str, Path],
    weights: Weights | None = None,
    variant: str | None = None,
    prediction: Prediction | None = None,
    safety_checker: Path | None = None,
    licence: Path | None = None,
) -> SourceModel:
    """Read what a single-file checkpoint (.safetensors, .ckpt, .pt, .bin) or a diffusers folder holds.

    Every key and shape is checked here; the weights are read network by network, later. Of a file with both, `weights`
    chooses the averaged ("ema", which None prefers) or the raw UNet. `variant` names a folder's files, such as "fp16".
    `prediction` overrides what the source states of itself. `safety_checker` is the folder of one, in place of a
    diffusers folder's own; `licence` a text, in place of one beside the source.

    Raises:
        CheckpointError: a file is absent, damaged, refused, incomplete, or not Stable Diffusion 1.x.
        InputError: a name in `vaes` cannot name a decoder, an option is not one of this form, or `licence` is no text.
    """
    for name in vaes:
        check_vae_name(name, vaes[name])
    if path.is_dir():
        model = _folder(path, vaes, weights, variant, prediction)
    elif variant is not None:
        raise InputError(f"--variant {variant} chooses among a diffusers folder's files; {path} is a single file")
    else:
        model = _file(path, vaes, weights, prediction)
    safety = find_safety_checker(path, safety_checker, variant)
    licence_files = find_licence(path if path.is_dir() else path.parent, licence)
    return replace(
        model,
        provenance=model.provenance | (safety.provenance if safety else {}),
        licence_name=licence_name(licence_files, model.licence_name),
        licence_files=licence_files,
        safety_checker=safety,
    )


def check_vae_name(name: str, path: Path) -> None:
    """Raise InputError where `name` cannot name a further decoder."""
    if name == OWN_DECODER or not is_decoder_name(name):
        reason = "is the checkpoint's own decoder" if name == OWN_DECODER else "has letters that a name may not have"
        raise InputError(f"--vae {name}={path}: {name!r} {reason}; give it another name, such as ft-mse")


def _file(path: Path, vaes: Mapping[str, Path], weights: Weights | None, prediction: Prediction | None) -> SourceModel:
    checkpoint = read_checkpoint(path)
    where = checkpoint.name
    facts = parse_facts(checkpoint.metadata, where) or Facts()
    networks = split_networks(checkpoint, weights)
    provenance = {"source": where, "source.sha256": checkpoint.sha256, "weights": networks.weights}
    return _assemble(
        where=where,
        text_encoder=original_text_encoder(networks.text_encoder, facts),
        unet=original_unet(networks.unet, facts),
        own=stored_vae(networks.vae, facts, prefix=VAE_PREFIX),
        vaes=vaes,
        tokenizer=clip_tokenizer(),
        schedule=folder_form.Schedule(prediction_type=prediction or stated_prediction(checkpoint.metadata, facts)),
        facts=facts,
        provenance=provenance | _ignored("source", networks.ignored),
    )


def _folder(
    path: Path,
    vaes: Mapping[str, Path],
    weights: Weights | None,
    variant: str | None,
    prediction: Prediction | None,
) -> SourceModel:
    if weights is not None:
        raise CheckpointError(
            f"{path} is a diffusers folder, which holds one set of weights: leave out --weights {weights}"
        )
    if (path / "text_encoder_2").exists():
        raise CheckpointError(f"{path} is Stable Diffusion XL; latentrt exports Stable Diffusion 1.x only")
    schedule = folder_form.load_schedule(path)
    text_encoder = folder_form.stored_text_encoder(path / "text_encoder", variant)
    unet = folder_form.stored_unet(path / "unet", variant)
    own = folder_form.stored_vae(path / "vae", variant)
    files = {**text_encoder.files, **unet.files, **own.files}
    if variant is not None and not any(f".{variant}" in name for name in files):
        raise InputError(f"--variant {variant}: {path} has no such files; it has {', '.join(sorted(files))}")
    provenance = {"source": path.absolute().name, "source.sha256": combined_sha256(files), "weights": "as stored"}
    return _assemble(
        where=str(path),
        text_encoder=text_encoder,
        unet=unet,
        own=own,
        vaes=vaes,
        tokenizer=folder_form.load_tokenizer(path),
        schedule=msgspec.structs.replace(schedule, prediction_type=prediction or schedule.prediction_type),
        facts=Facts(
            unet=UNetFacts(norm_num_groups=unet.config["norm_num_groups"]),
            vae=VaeFacts(norm_num_groups=own.config["norm_num_groups"]),
            default_size=int(unet.config["sample_size"]) * VAE_SCALE_FACTOR,
            licence=SD_LICENCE,
        ),
        provenance=provenance | {"source.files": ", ".join(sorted(files))} | _variant_note(files, variant),
    )


def _variant_note(files: Mapping[str, str], variant: str | None) -> dict[str, str]:
    """Which files were taken where they are not the plain ones and nobody asked for them."""
    found = sorted(name for name in files if re.search(r"model\.(?!safetensors|bin)[\w-]+\.", name))
    if not found or variant is not None:
        return {}
    return {f"{NOTE}variant": f"only a variant is there, and was taken: {', '.join(found)}"}


def _assemble(
    *,
    where: str,
    text_encoder: StoredNetwork[CLIPTextModel],
    unet: StoredNetwork[UNet2DConditionModel],
    own: StoredVae,
    vaes: Mapping[str, Path],
    tokenizer: CLIPTokenizer,
    schedule: folder_form.Schedule,
    facts: Facts,
    provenance: dict[str, str],
) -> SourceModel:
    expected, found = unet.config["cross_attention_dim"], text_encoder.config.hidden_size
    if expected != found:
        raise CheckpointError(f"{where}: the UNet expects texts {expected} wide, its text encoder gives {found}")
    all_vaes, encoders = {OWN_DECODER: own}, []
    for name, path in vaes.items():
        all_vaes[name] = vae = find_vae(path, facts)
        own_encoder = not shares_encoder(vae, own, f"--vae {name}={path}")
        encoders += [name] if own_encoder else []
        provenance |= vae_provenance(name, vae, own_encoder=own_encoder)
    return SourceModel(
        text_encoder=text_encoder,
        unet=unet,
        vaes=all_vaes,
        encoders=tuple(encoders),
        tokenizer=tokenizer,
        facts=_model_facts(unet.config, own.config, schedule.prediction_type, facts.default_size),
        scheduler=SchedulerFacts(
            beta_start=schedule.beta_start,
            beta_end=schedule.beta_end,
            num_train_timesteps=schedule.num_train_timesteps,
            steps_offset=schedule.steps_offset,
        ),
        provenance=provenance,
        licence_name=facts.licence,
    )


def _model_facts(unet: Mapping[str, Any], vae: Mapping[str, Any], prediction: Prediction, size: int) -> ModelFacts:
    f = 2 ** (len(vae["block_out_channels"]) - 1)
    return ModelFacts(
        family="stable-diffusion-1",
        prediction_type=prediction,
        latent_channels=int(vae["latent_channels"]),
        vae_scale_factor=f,
        scaling_factor=float(vae["scaling_factor"]),
        max_tokens=MAX_TOKENS,
        default_size=size,
        size_multiple=f * 2 ** (len(unet["block_out_channels"]) - 1),  # each level of the UNet but the last halves
    )


def vae_provenance(name: str, vae: StoredVae, *, own_encoder: bool) -> dict[str, str]:
    """Where a further decoder came from, and a note where its encoder is not the checkpoint's."""
    (file, sha256), *_ = vae.files.items()
    note = f"the encoder of {name} is not the checkpoint's own: it is in the bundle as {encoder_component(name)}"
    return (
        {f"vae.{name}": file, f"vae.{name}.sha256": sha256}
        | _ignored(f"vae.{name}", vae.ignored)
        | ({f"{NOTE}vae.{name}": note} if own_encoder else {})
    )


def _ignored(prefix: str, counts: Mapping[str, int]) -> dict[str, str]:
    """`{"betas", …}` -> `{"source.ignored": "13 schedule buffers, 2 averaging counters"}`, or nothing."""
    return {f"{prefix}.ignored": ", ".join(f"{n} {kind}" for kind, n in counts.items())} if counts else {}
