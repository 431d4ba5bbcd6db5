"""Whole models from a diffusers folder: every form of file gives the same networks, and what does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentrt.engines.errors import CheckpointError
from latentrt.export.source import SourceModel, load_source
from latentrt.export.vocabulary import clip_tokenizer
from support.checkpoints import (
    VAE_FILE,
    drop,
    is_frozen,
    put,
    same,
    tiny,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny model as diffusers saves one."""
    root, model = tmp_path / "model", tiny()
    model["unet_ema"].save_pretrained(root / "unet")
    model["vaes"]["kl-f8"].save_pretrained(root / "vae")
    model["text_encoder"].save_pretrained(root / "text_encoder")
    clip_tokenizer().save_pretrained(root / "tokenizer")
    (root / "scheduler").mkdir()
    schedule = {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
    }
    schedule |= {
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    (root / "scheduler/scheduler_config.json").write_text(json.dumps(schedule))
    return root


def _check_folder(source: SourceModel) -> None:
    model = tiny()
    pairs = [
        (source.unet.load(), model["unet_ema"]),
        (source.vaes["kl-f8"].load(), model["vaes"]["kl-f8"]),
        (source.text_encoder.load(), model["text_encoder"]),
    ]
    for loaded, original in pairs:
        assert same(loaded, original.state_dict())
        assert is_frozen(loaded)


def test_a_diffusers_folder_gives_the_same_model(folder: Path, packed: Path) -> None:
    (folder / "NOTICE.txt").write_text("notice")
    source = load_source(folder, vaes={"ft-mse": packed / VAE_FILE})  # float16 beside float32: the encoder is the same
    _check_folder(source)
    assert source.tokenizer("a red circle").input_ids == clip_tokenizer()("a red circle").input_ids
    assert (source.facts.default_size, source.scheduler.beta_end, source.scheduler.steps_offset) == (128, 0.012, 1)
    assert (source.provenance["source"], source.provenance["weights"]) == ("model", "as stored")
    assert source.licence_files == (folder / "NOTICE.txt",)
    assert source.licence_missing == ("LICENSE-MODEL", "USE_RESTRICTIONS")


def test_a_diffusers_folder_of_pickles_and_old_names(folder: Path) -> None:
    """As SD 1.5 was published: pickles, and the text encoder's names with an inner `text_model.`."""
    for part, stem, pickled in (
        ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        ("text_encoder", "model", "pytorch_model"),
    ):
        file = folder / part / f"{stem}.safetensors"
        tensors = load_file(file)
        if part == "text_encoder":
            tensors = {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in tensors.items()}
            tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        torch.save(tensors, file.with_name(f"{pickled}.bin"))
        file.unlink()
    _check_folder(load_source(folder, vaes={}))


def _rewrite_json(file: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) | changes
        (folder / file).write_text(json.dumps(content))

    return change


def _rewrite_weights(file: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], None]:
    return lambda folder: save_file(change(load_file(folder / file)), folder / file, metadata={"format": "pt"})


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_rewrite_weights(WEIGHTS, drop("conv_in.weight")), "unet: 1 key missing: conv_in.weight"),
        (_rewrite_weights(WEIGHTS, put(extra=torch.ones(1))), "unet: 1 key unexpected: extra"),
        (_rewrite_weights(WEIGHTS, put(**{"conv_in.bias": torch.ones(5)})), "unet.*conv_in.bias"),
        (
            _rewrite_weights("text_encoder/model.safetensors", drop("final_layer_norm.bias")),
            "text_encoder: 1 key missing",
        ),
        (
            lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]),
            r"truncated: expected \d+ bytes, it ends at byte \d+",
        ),
        (lambda f: (f / WEIGHTS).unlink(), "unet has no weights: expected diffusion_pytorch_model.safetensors"),
        (lambda f: (f / "vae/config.json").write_text("{"), "vae/config.json is not valid JSON"),
        (lambda f: (f / "unet/config.json").unlink(), "unet/config.json cannot be read"),
        (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "scheduler_config.json cannot be read"),
        (lambda f: (f / "tokenizer/tokenizer.json").write_text("{"), "tokenizer cannot be read"),
        (lambda f: (f / "text_encoder_2").mkdir(), "is Stable Diffusion XL"),
        (_rewrite_json("unet/config.json", cross_attention_dim=1024), r"is Stable Diffusion 2\.x"),
        (_rewrite_json("scheduler/scheduler_config.json", beta_schedule="linear"), "beta_schedule"),
        (_rewrite_json("scheduler/scheduler_config.json", prediction_type="sample"), "prediction_type"),
    ],
)
def test_a_damaged_folder_is_named(change: Callable[[Path], Any], message: str, folder: Path) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_source(folder, vaes={})
    assert "\n" not in str(caught.value)


def test_raw_weights_are_not_in_a_folder(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="leave out --weights raw"):
        load_source(folder, vaes={}, weights="raw")
