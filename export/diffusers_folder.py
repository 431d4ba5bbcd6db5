"""Read a model in diffusers' folder form: `unet/ vae/ text_encoder/ tokenizer/ scheduler/`. No hub is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedModel

from latentrt.engines.errors import CheckpointError

from .architecture import refuse_other_families
from .checkpoint import one_line, read_checkpoint
from .conversion import LISTED, freeze

Module = TypeVar("Module", bound=nn.Module)

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")  # diffusers, transformers, transformers' pickles
_FAILURES = (OSError, ValueError, RuntimeError, KeyError, TypeError)  # what from_pretrained raises on damaged folders


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


@dataclass(frozen=True)
class Part(Generic[Module]):
    """One network of a folder: float32 and frozen, the precision it is stored in, and its files' hashes by path."""

    module: Module
    stored: torch.dtype
    files: dict[str, str]


def load_part(folder: Path, cls: type[Module]) -> Part[Module]:
    """Load the network in `folder` with its own library's `from_pretrained`.

    Raises:
        CheckpointError: no weights, damaged files, another family, or keys missing, unexpected or of the wrong shape.
    """
    config = _read_json(folder / "config.json")
    width = config.get("cross_attention_dim")
    refuse_other_families(str(folder), (), width if isinstance(width, int) else None)
    files = _weight_files(folder)
    # Reading them first gives the hash, the stored precision, and this project's messages for damaged or hostile files.
    checkpoints = [read_checkpoint(file) for file in files]
    dtypes = {t.dtype for checkpoint in checkpoints for t in checkpoint.tensors.values() if t.is_floating_point()}
    if not dtypes:
        raise CheckpointError(f"{folder} holds no weights in {', '.join(file.name for file in files)}")
    dtype_option = "dtype" if issubclass(cls, PreTrainedModel) else "torch_dtype"
    options = {dtype_option: torch.float32, "use_safetensors": files[0].suffix == ".safetensors"}
    try:
        loaded = cls.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)  # type: ignore[attr-defined]
    except _FAILURES as error:
        raise CheckpointError(f"{folder} cannot be loaded: {one_line(error)}") from error
    module, report = loaded
    _refuse_differences(folder, report)
    hashes = {f"{folder.name}/{c.name}": c.sha256 for c in checkpoints}
    return Part(freeze(module, str(folder)), max(dtypes, key=lambda dtype: torch.finfo(dtype).eps), hashes)


def load_unet(folder: Path) -> Part[UNet2DConditionModel]:
    """The UNet of a diffusers model folder."""
    return load_part(folder / "unet", UNet2DConditionModel)


def load_text_encoder(folder: Path) -> Part[CLIPTextModel]:
    """The text encoder of a diffusers model folder."""
    return load_part(folder / "text_encoder", CLIPTextModel)


def load_vae(folder: Path) -> Part[AutoencoderKL]:
    """The autoencoder in `folder` itself (where its `config.json` is), or in its `vae/`."""
    return load_part(folder if (folder / "config.json").is_file() else folder / "vae", AutoencoderKL)


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
    try:
        return msgspec.convert(_read_json(file), Schedule)
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


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: safetensors before pickles, one file before shards."""
    for suffix in ("safetensors", "bin"):
        for stem in _STEMS:
            whole, index = folder / f"{stem}.{suffix}", folder / f"{stem}.{suffix}.index.json"
            if whole.is_file():
                return [whole]
            if index.is_file():
                return [folder / name for name in _shards(index)]
    raise CheckpointError(
        f"{folder} has no weights: expected {', '.join(f'{s}.safetensors or {s}.bin' for s in _STEMS)}"
    )


def _shards(index: Path) -> list[str]:
    weight_map = _read_json(index).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise CheckpointError(f"{index} does not list weight files beside it")
    return sorted(names)


def _refuse_differences(folder: Path, report: Mapping[str, Any]) -> None:
    """from_pretrained only warns of these, and leaves fresh random weights in their place."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        found = [str(item) for item in report.get(kind, ()) if not str(item).endswith("position_ids")]
        if found:
            more = f", … and {len(found) - LISTED} more" if len(found) > LISTED else ""
            what = kind.replace("_", " ")
            raise CheckpointError(f"{folder}: {len(found)} {what}: {', '.join(sorted(found)[:LISTED])}{more}")
