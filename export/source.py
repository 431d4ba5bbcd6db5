"""The model that `export` starts from: PyTorch networks and the facts that travel with them, from any form."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from latentrt.engines.errors import CheckpointError, InputError
from latentrt.engines.manifest import is_decoder_name

from . import diffusers_folder as folder_form
from .architecture import (
    SD_LICENCE,
    VAE_SCALE_FACTOR,
    Facts,
    KeyTable,
    UNetFacts,
    VaeFacts,
    parse_facts,
    refuse_other_families,
    text_config,
    unet_config,
)
from .checkpoint import Weights, read_checkpoint, split_networks
from .conversion import VAE_PREFIX, convert_text_encoder, convert_unet, shapes_of
from .licence import find_licence, licence_name
from .safety_source import SafetySource, find_safety_checker
from .vae import Vae, build_vae, check_only_decoder_differs, load_vae
from .vocabulary import clip_tokenizer

OWN_DECODER = "kl-f8"  # the autoencoder that the checkpoint itself holds


@dataclass(frozen=True)
class SourceModel:
    """A whole Stable Diffusion 1.x model: float32 modules in evaluation mode, without gradients, and their facts."""

    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vaes: dict[str, AutoencoderKL]  # the first is the checkpoint's own, "kl-f8"
    tokenizer: CLIPTokenizer
    prediction_type: Literal["epsilon", "v_prediction"]
    scaling_factor: float  # latents = encoder output * this
    beta_start: float
    beta_end: float
    num_train_timesteps: int
    steps_offset: int
    default_size: int  # pixels on a side
    provenance: dict[str, str]  # file names and hashes, which weights, what was ignored; no paths, no times
    licence_name: str
    licence_files: dict[str, Path] = field(default_factory=dict)  # by their names in the bundle
    safety_checker: SafetySource | None = None  # not loaded: export does that by itself


def load_source(
    path: Path,
    *,
    vaes: Mapping[str, Path],
    weights: Weights = "ema",
    safety_checker: Path | None = None,
    licence: Path | None = None,
) -> SourceModel:
    """Read a single-file checkpoint (.safetensors, .ckpt, .pt, .bin) or a diffusers folder, and more autoencoders.

    Of a file with both, `weights` chooses the averaged ("ema") or the raw UNet. A file with one set has only that.
    `safety_checker` is a folder, and a diffusers folder's own where it is not given; `licence` a text, in place of one
    beside the checkpoint.

    Raises:
        CheckpointError: a file is absent, damaged, refused, incomplete, or not Stable Diffusion 1.x.
        InputError: a name in `vaes` cannot name a decoder, or `licence` is no text.
    """
    for name in vaes:
        if name == OWN_DECODER or not is_decoder_name(name):
            reason = (
                "is the checkpoint's own decoder" if name == OWN_DECODER else "has letters that a name may not have"
            )
            raise InputError(f"--vae {name}={vaes[name]}: {name!r} {reason}; give it another name, such as ft-mse")
    safety = find_safety_checker(path, safety_checker)
    licence_files = find_licence(path if path.is_dir() else path.parent, licence)
    model = _load_folder(path, vaes, weights) if path.is_dir() else _load_file(path, vaes, weights)
    name = licence_name(licence_files, model.licence_name)
    return replace(model, licence_name=name, licence_files=licence_files, safety_checker=safety)


def _load_file(path: Path, vaes: Mapping[str, Path], weights: Weights) -> SourceModel:
    checkpoint = read_checkpoint(path)
    where = checkpoint.name
    facts = parse_facts(checkpoint.metadata, where) or Facts()
    networks = split_networks(checkpoint, weights)
    unet_facts = unet_config(KeyTable(where, "UNet", shapes_of(networks.unet)), facts.unet, facts.default_size)
    refuse_other_families(where, (), unet_facts["cross_attention_dim"])
    text_facts = text_config(KeyTable(where, "text encoder", shapes_of(networks.text_encoder)), facts.text_encoder)
    text_encoder = convert_text_encoder(networks.text_encoder, text_facts, where)
    unet = convert_unet(networks.unet, unet_facts, where)
    own = build_vae(checkpoint, networks.vae, facts, prefix=VAE_PREFIX)
    provenance = {"source": where, "source.sha256": checkpoint.sha256, "weights": networks.weights}
    _check_context_width(where, unet, text_encoder)
    return _assemble(
        text_encoder=text_encoder,
        unet=unet,
        vaes=_all_vaes(own, vaes, facts),
        tokenizer=clip_tokenizer(),
        schedule=folder_form.Schedule(prediction_type=facts.prediction_type),
        facts=facts,
        provenance=provenance | _ignored("source", networks.ignored),
    )


def _load_folder(path: Path, vaes: Mapping[str, Path], weights: Weights) -> SourceModel:
    if weights == "raw":
        raise CheckpointError(f"{path} is a diffusers folder, which holds one set of weights: leave out --weights raw")
    if (path / "text_encoder_2").exists():
        raise CheckpointError(f"{path} is Stable Diffusion XL; latentrt exports Stable Diffusion 1.x only")
    schedule = folder_form.load_schedule(path)
    text_encoder, unet = folder_form.load_text_encoder(path), folder_form.load_unet(path)
    vae = folder_form.load_vae(path / "vae")
    _check_context_width(str(path), unet.module, text_encoder.module)
    files = text_encoder.files | unet.files | vae.files
    own = Vae(vae.module, vae.stored, path.absolute().name, "", {})
    facts = Facts(
        unet=UNetFacts(norm_num_groups=unet.module.config["norm_num_groups"]),
        vae=VaeFacts(norm_num_groups=vae.module.config["norm_num_groups"]),
        default_size=int(unet.module.config["sample_size"]) * VAE_SCALE_FACTOR,
        licence=SD_LICENCE,
    )
    return _assemble(
        text_encoder=text_encoder.module,
        unet=unet.module,
        vaes=_all_vaes(own, vaes, facts),
        tokenizer=folder_form.load_tokenizer(path),
        schedule=schedule,
        facts=facts,
        provenance={"source": path.absolute().name, "source.sha256": _combined(files), "weights": "as stored"},
    )


def _combined(files: Mapping[str, str]) -> str:
    """One hash for many files: SHA-256 of what `sha256sum` prints for them in the order of their names."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _all_vaes(own: Vae, vaes: Mapping[str, Path], facts: Facts) -> dict[str, Vae]:
    loaded = {OWN_DECODER: own}
    for name, path in vaes.items():
        loaded[name] = load_vae(path, facts)
        check_only_decoder_differs(name, loaded[name], own)
    return loaded


def _assemble(
    *,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    vaes: Mapping[str, Vae],
    tokenizer: CLIPTokenizer,
    schedule: folder_form.Schedule,
    facts: Facts,
    provenance: dict[str, str],
) -> SourceModel:
    for name, vae in vaes.items():
        if name != OWN_DECODER:
            provenance |= {f"vae.{name}": vae.file, f"vae.{name}.sha256": vae.sha256}
            provenance |= _ignored(f"vae.{name}", vae.ignored)
    return SourceModel(
        text_encoder=text_encoder,
        unet=unet,
        vaes={name: vae.module for name, vae in vaes.items()},
        tokenizer=tokenizer,
        prediction_type=schedule.prediction_type,
        scaling_factor=float(vaes[OWN_DECODER].module.config["scaling_factor"]),
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        num_train_timesteps=schedule.num_train_timesteps,
        steps_offset=schedule.steps_offset,
        default_size=facts.default_size,
        provenance=provenance,
        licence_name=facts.licence,
    )


def _check_context_width(where: str, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
    expected, found = unet.config["cross_attention_dim"], text_encoder.config.hidden_size
    if expected != found:
        raise CheckpointError(f"{where}: the UNet expects texts {expected} wide, its text encoder gives {found}")


def _ignored(prefix: str, counts: Mapping[str, int]) -> dict[str, str]:
    """`{"betas", …}` -> `{"source.ignored": "13 schedule buffers, 2 averaging counters"}`, or nothing."""
    return {f"{prefix}.ignored": ", ".join(f"{n} {kind}" for kind, n in counts.items())} if counts else {}
