"""A checkpoint as diffusers' own folder: the networks that a bundle holds, as its peers load them.

Written by hand where the libraries' own way differs from version to version: peers bring versions of their own. So the
text encoder has the names, and the tokenizer the files, that Stable Diffusion 1.5 was published with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import InputError
from latentrt.engines.manifest import OWN_DECODER
from latentrt.export.diffusers_folder import variants
from latentrt.export.layout import Weights
from latentrt.export.source import SourceModel, load_source

_START, _END = "<|startoftext|>", "<|endoftext|>"
_CLASSES = {
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
}
_INNER = "text_model."


def write_diffusers_folder(bundle: Bundle, source: Path, folder: Path) -> None:
    """Fill an empty folder with the networks of the checkpoint that a bundle was exported from, weights float32.

    Raises:
        CheckpointError: it cannot be read.
        InputError: no variant of a diffusers folder is what was exported.
    """
    model = _exported(bundle, source)
    model.unet.load().save_pretrained(folder / "unet")
    model.vaes[OWN_DECODER].load().save_pretrained(folder / "vae")
    _write_text_encoder(model.text_encoder.load(), folder / "text_encoder")
    _write_tokenizer(model.tokenizer, folder / "tokenizer")
    _write_json(folder / "scheduler" / "scheduler_config.json", _scheduler(bundle))
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__}
    _write_json(folder / "model_index.json", index | _CLASSES | {"requires_safety_checker": False})


def _exported(bundle: Bundle, source: Path) -> SourceModel:
    """The checkpoint as it was exported: of a folder, the variant that nobody wrote down is the one with that hash."""
    stated = bundle.manifest.provenance
    weights: dict[str, Weights] = {"ema": "ema", "raw": "raw"}
    of_file = None if source.is_dir() else weights.get(stated["weights"])
    for variant in [None, *(variants(source / "unet") if source.is_dir() else [])]:
        prediction = bundle.manifest.model.prediction_type
        model = load_source(source, vaes={}, weights=of_file, variant=variant, prediction=prediction)
        if model.provenance["source.sha256"] == stated["source.sha256"]:
            return model
    raise InputError(f"{source} is not what {bundle.root} was exported from")


def _scheduler(bundle: Bundle) -> dict[str, Any]:
    """`scheduler_config.json` as SD 1.5 has it, which names no spacing: each scheduler class then keeps its own."""
    facts, model = bundle.manifest.scheduler, bundle.manifest.model
    prediction = {} if model.prediction_type == "epsilon" else {"prediction_type": model.prediction_type}
    return {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": facts.beta_end,
        "beta_schedule": "scaled_linear",
        "beta_start": facts.beta_start,
        "clip_sample": False,
        "num_train_timesteps": facts.num_train_timesteps,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": facts.steps_offset,
        "trained_betas": None,
    } | prediction


def _write_text_encoder(text_encoder: CLIPTextModel, folder: Path) -> None:
    folder.mkdir()
    named = {_INNER + key.removeprefix(_INNER): t.contiguous() for key, t in text_encoder.state_dict().items()}
    tensors = {key: tensor for key, tensor in named.items() if not key.endswith("position_ids")}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = text_encoder.config.to_diff_dict()
    dropped = {"dtype", "transformers_version"}
    kept = {key: value for key, value in config.items() if key not in dropped}
    _write_json(folder / "config.json", kept | {"architectures": ["CLIPTextModel"], "torch_dtype": "float32"})


def _write_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    _write_json(folder / "vocab.json", tokenizer.get_vocab())
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    _write_json(folder / "special_tokens_map.json", special)
    stated = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": tokenizer.model_max_length,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    _write_json(folder / "tokenizer_config.json", special | stated)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
