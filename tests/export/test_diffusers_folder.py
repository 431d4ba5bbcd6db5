"""Whole models from a diffusers folder: every form of file gives the same networks, and what does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentrt.engines.errors import CheckpointError, LatentrtError
from latentrt.export.source import SourceModel, load_source
from latentrt.export.vocabulary import clip_tokenizer
from support.checkpoints import (
    VAE_FILE,
    drop,
    halved,
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


UNET = Path("unet/diffusion_pytorch_model.safetensors")
PARTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


def _variant(folder: Path, name: str, keep: bool = False) -> None:
    """Write every part as a float16 variant, beside the plain file or in its place."""
    for part, file in PARTS.items():
        plain = folder / part / file
        halves = {key: tensor.half() for key, tensor in load_file(plain).items()}
        save_file(halves, plain.with_name(file.replace(".safetensors", f".{name}.safetensors")))
        if not keep:
            plain.unlink()


def _is_half(source: SourceModel) -> bool:
    return same(source.unet.load(), halved(tiny()["unet_ema"]))


def test_the_only_variant_is_taken_and_said(folder: Path) -> None:
    _variant(folder, "fp16")
    source = load_source(folder, vaes={})
    assert _is_half(source)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in source.provenance["note.variant"]
    assert (
        source.provenance["source.files"]
        == "text_encoder/model.fp16.safetensors, unet/diffusion_pytorch_model.fp16.safetensors, "
        "vae/diffusion_pytorch_model.fp16.safetensors"
    )


def test_a_variant_is_taken_where_it_is_asked_for(folder: Path) -> None:
    _variant(folder, "fp16", keep=True)
    plain, asked = load_source(folder, vaes={}), load_source(folder, vaes={}, variant="fp16")
    assert not _is_half(plain)
    assert _is_half(asked)
    assert not any(key.startswith("note.") for source in (plain, asked) for key in source.provenance)


def test_a_part_without_the_variant_gives_its_plain_file(folder: Path) -> None:
    """As published: only the UNet has the variant non_ema."""
    plain = folder / UNET
    save_file({key: 2 * tensor for key, tensor in load_file(plain).items()}, plain.with_suffix(".non_ema.safetensors"))
    plain.with_suffix(".non_ema.safetensors").rename(plain.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    source = load_source(folder, vaes={}, variant="non_ema")
    doubled = {key: 2 * tensor for key, tensor in tiny()["unet_ema"].state_dict().items()}
    assert same(source.unet.load(), doubled)
    assert same(source.vaes["kl-f8"].load(), tiny()["vaes"]["kl-f8"].state_dict())


@pytest.mark.parametrize(
    ("found", "asked", "message"),
    [
        (["fp16", "bf16"], None, "has only the variants bf16, fp16: choose one with --variant"),
        ([], "fp16", "--variant fp16: .* has no such files; it has text_encoder/model.safetensors, unet/"),
    ],
)
def test_a_variant_that_cannot_be_chosen(found: list[str], asked: str | None, message: str, folder: Path) -> None:
    for name in found:
        _variant(folder, name, keep=True)
    if found:
        (folder / UNET).unlink()
    with pytest.raises(LatentrtError, match=message):
        load_source(folder, vaes={}, variant=asked)


def test_a_variant_of_a_single_file_is_refused(packed: Path) -> None:
    with pytest.raises(LatentrtError, match="is a single file"):
        load_source(packed / "demo.safetensors", vaes={}, variant="fp16")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_read_by_their_index(variant: str | None, folder: Path) -> None:
    """As diffusers itself writes them."""
    (folder / UNET).unlink()
    tiny()["unet_ema"].save_pretrained(folder / "unet", max_shard_size="200KB", variant=variant)
    shards = list((folder / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 2
    assert same(load_source(folder, vaes={}).unet.load(), tiny()["unet_ema"].state_dict())
    shards[0].write_bytes(shards[0].read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=f"{shards[0].name} is truncated"):
        load_source(folder, vaes={})
    shards[0].unlink()
    with pytest.raises(CheckpointError, match=f"{shards[0].name} cannot be read"):
        load_source(folder, vaes={})


@pytest.mark.parametrize("names", [{"a": "../b.safetensors"}, {}, {"a": 3}])
def test_an_index_that_leads_elsewhere_is_refused(names: dict[str, Any], folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / f"{UNET}.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError, match="does not list weight files beside it"):
        load_source(folder, vaes={})


def test_attention_under_its_older_names_is_read(folder: Path) -> None:
    """`vae/` of Stable Diffusion 1.5 as published; diffusers reads both too."""
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for new, old in older.items():
        tensors = {key.replace(f".attentions.0.{new}.", f".attentions.0.{old}."): t for key, t in tensors.items()}
    assert any(".query." in key for key in tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    loaded = load_source(folder, vaes={}).vaes["kl-f8"].load()
    assert same(loaded, AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True).state_dict())


def test_the_schedule_states_v_prediction(folder: Path) -> None:
    _rewrite_json("scheduler/scheduler_config.json", prediction_type="v_prediction")(folder)
    assert load_source(folder, vaes={}).facts.prediction_type == "v_prediction"
    assert load_source(folder, vaes={}, prediction="epsilon").facts.prediction_type == "epsilon"
    _rewrite_json("scheduler/scheduler_config.json", rescale_betas_zero_snr=True)(folder)
    with pytest.raises(CheckpointError, match="zero terminal SNR"):
        load_source(folder, vaes={})
