"""Read a model in diffusers' folder form: `unet/ vae/ text_encoder/ tokenizer/ scheduler/`. No hub is asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from latentrt.engines.errors import CheckpointError

from .architecture import refuse_other_families
from .checkpoint import read_checkpoint
from .conversion import Tensors, check_keys, load_strictly, load_text_encoder, original_text_name, shapes_of
from .pickles import one_line
from .stored import StoredNetwork, coarsest_dtype

Module = TypeVar("Module", bound=nn.Module)

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")  # diffusers, transformers, transformers' pickles
_FAILURES = (OSError, ValueError, RuntimeError, KeyError, TypeError)  # what the libraries raise on damaged files
_VARIANT = re.compile(
    rf"(?:{'|'.join(_STEMS)})\.(?:(?:safetensors|bin)\.index\.)?([\w-]+?)(?:-\d+-of-\d+)?\.(?:safetensors|bin|json).*"
)
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION = re.compile(rf"\.attentions\.(\d+)\.({'|'.join(_ATTENTION)})\.")


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """`scheduler_config.json`: the noise schedule the model was trained with; the defaults are SD 1.5's.

    Sampling options of the scheduler class (`skip_prk_steps`, `clip_sample`, …) are the runtime's business.
    """

    beta_start: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.00085
    beta_end: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.012
    beta_schedule: Literal["scaled_linear"] = "scaled_linear"
    num_train_timesteps: Annotated[int, msgspec.Meta(ge=1)] = 1000
    steps_offset: Annotated[int, msgspec.Meta(ge=0)] = 1
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    trained_betas: None = None


def stored_unet(folder: Path, variant: str | None = None) -> StoredNetwork[UNet2DConditionModel]:
    """The UNet in `folder`, where its `config.json` is.

    Raises:
        CheckpointError: no weights, damaged files, another family, or keys missing, unexpected or of the wrong shape.
    """
    config = _read_json(folder / "config.json")
    width = config.get("cross_attention_dim")
    refuse_other_families(str(folder), (), width if isinstance(width, int) else None)
    return _stored(folder, variant, lambda: UNet2DConditionModel.from_config(config), str, load_strictly)


def stored_text_encoder(folder: Path, variant: str | None = None) -> StoredNetwork[CLIPTextModel]:
    """The text encoder in `folder`; raises as `stored_unet` does."""
    config = _read_json(folder / "config.json")

    def empty() -> CLIPTextModel:
        return CLIPTextModel(CLIPTextConfig.from_dict(config))

    return _stored(folder, variant, empty, original_text_name, load_text_encoder)


def stored_vae(folder: Path, variant: str | None = None) -> StoredNetwork[AutoencoderKL]:
    """The autoencoder in `folder`, or in its `vae/`; raises as `stored_unet` does."""
    folder = folder if (folder / "config.json").is_file() else folder / "vae"
    config = _read_json(folder / "config.json")
    return _stored(folder, variant, lambda: AutoencoderKL.from_config(config), _vae_name, load_strictly)


def stored_safety_checker(folder: Path, variant: str | None = None) -> StoredNetwork[StableDiffusionSafetyChecker]:
    """The safety checker in `folder`; raises as `stored_unet` does."""
    config = _read_json(folder / "config.json")

    def empty() -> StableDiffusionSafetyChecker:
        return StableDiffusionSafetyChecker(CLIPConfig.from_dict(config))

    return _stored(folder, variant, empty, _checker_name, _load_safety_checker)


def _checker_name(name: str) -> str:
    """Stable Diffusion 1.5's own names have an inner `vision_model.`, which transformers dropped in 5.6."""
    return name.replace("vision_model.vision_model.", "vision_model.")


def _load_safety_checker(
    checker: StableDiffusionSafetyChecker, tensors: Tensors, where: str
) -> StableDiffusionSafetyChecker:
    names = {_checker_name(name): name for name in checker.state_dict()}
    for module in checker.modules():  # a buffer that no checkpoint restores
        if isinstance(getattr(module, "position_ids", None), Tensor):
            module.position_ids = torch.arange(module.num_positions)[None]
    return load_strictly(checker, {names.get(name, name): tensor for name, tensor in tensors.items()}, where)


def _stored(
    folder: Path,
    variant: str | None,
    empty: Callable[[], Module],
    renamed: Callable[[str], str],
    fill: Callable[[Module, Tensors, str], Module],
) -> StoredNetwork[Module]:
    """A network of which `empty` makes the module, and `renamed` turns older names into today's."""
    checkpoints = [read_checkpoint(file) for file in weight_files(folder, variant)]
    places = {renamed(key): (c, key) for c in checkpoints for key in c.tensors if not key.endswith("position_ids")}
    tensors = {name: checkpoint.tensors[key] for name, (checkpoint, key) in places.items()}

    def on_meta() -> Module:
        return _on_meta(folder, empty)

    module = on_meta()
    expected = {renamed(name): shape for name, shape in shapes_of(module.state_dict()).items()}
    check_keys(str(folder), "", expected, tensors)

    def load() -> Module:
        read = {c.path: c.read(key for holder, key in places.values() if holder is c) for c in checkpoints}
        return fill(on_meta(), {n: read[c.path][key] for n, (c, key) in places.items()}, str(folder))

    hashes = {f"{folder.name}/{c.name}": c.sha256 for c in checkpoints}
    return StoredNetwork(module.config, on_meta, load, coarsest_dtype(tensors), hashes)


def _on_meta(folder: Path, empty: Callable[[], Module]) -> Module:
    try:
        with torch.device("meta"):
            return empty()
    except _FAILURES as error:
        raise CheckpointError(f"{folder / 'config.json'} describes no network: {one_line(error)}") from error


def _vae_name(name: str) -> str:
    """Diffusers before 0.17, hence Stable Diffusion 1.5's own folder, named attention in another way."""
    return _OLD_ATTENTION.sub(lambda match: f".attentions.{match[1]}.{_ATTENTION[match[2]]}.", name)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer of a diffusers model folder.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except _FAILURES as error:
        raise CheckpointError(f"{folder / 'tokenizer'} cannot be read: {one_line(error)}") from error


def load_schedule(folder: Path) -> Schedule:
    """The noise schedule of a diffusers model folder.

    Raises:
        CheckpointError: the file is absent or damaged, or states a schedule that is not Stable Diffusion 1.x's kind.
    """
    file = folder / "scheduler" / "scheduler_config.json"
    stated = _read_json(file)
    if stated.get("rescale_betas_zero_snr"):
        raise CheckpointError(f"{file} rescales its betas to zero terminal SNR, which latentrt does not do yet")
    try:
        return msgspec.convert(stated, Schedule)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{file} is not a schedule of Stable Diffusion 1.x: {error}") from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}; is the folder whole?") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is no table of settings: found {type(content).__name__}")
    return content


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The files that hold the weights: safetensors before pickles, one file before shards, plain before variants.

    With `variant` (such as "fp16") its files where the folder has them, else the plain ones. Where there is only one
    variant it is taken without asking.

    Raises:
        CheckpointError: no weights, or only several variants.
    """
    for wanted in [None] if variant is None else [variant, None]:
        if files := _named_files(folder, wanted):
            return files
    found = variants(folder)
    if len(found) == 1:
        return _named_files(folder, found[0])
    if found:
        raise CheckpointError(f"{folder} has only the variants {', '.join(found)}: choose one with --variant")
    raise CheckpointError(
        f"{folder} has no weights: expected {', '.join(f'{s}.safetensors or {s}.bin' for s in _STEMS)}"
    )


def variants(folder: Path) -> list[str]:
    """The variants (`fp16` of `model.fp16.safetensors`) whose weights a network's folder holds."""
    names = {match[1] for file in folder.iterdir() if (match := _VARIANT.fullmatch(file.name))}
    return sorted(name for name in names if _named_files(folder, name))


def _named_files(folder: Path, variant: str | None) -> list[Path]:
    dotted = f".{variant}" if variant else ""
    for suffix in ("safetensors", "bin"):
        for stem in _STEMS:
            whole = folder / f"{stem}{dotted}.{suffix}"
            # transformers and diffusers write the variant last, older ones wrote it before the suffix
            indices = (folder / f"{stem}.{suffix}.index{dotted}.json", folder / f"{stem}{dotted}.{suffix}.index.json")
            if whole.is_file():
                return [whole]
            for index in indices:
                if index.is_file():
                    return [folder / name for name in _shards(index)]
    return []


def _shards(index: Path) -> list[str]:
    weight_map = _read_json(index).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise CheckpointError(f"{index} does not list weight files beside it")
    return sorted(names)
