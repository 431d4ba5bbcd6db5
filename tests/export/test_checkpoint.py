"""Reading single files: every form, every kind of damage, and pickles that want to run something."""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from latentrt.engines.errors import CheckpointError
from latentrt.export.checkpoint import ignored_kind, read_checkpoint, split_networks, split_vae

KEY = "model.diffusion_model.out.2.bias"
EMA_KEY = "model_ema.diffusion_modelout2bias"
TENSORS = {
    KEY: torch.arange(4.0),
    "cond_stage_model.transformer.text_model.final_layer_norm.bias": torch.ones(3).half(),
}


def _write(path: Path, content: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("name", "wrap", "extra"),
    [
        ("a.safetensors", lambda t: t, 0),
        ("a.ckpt", lambda t: t, 0),
        ("a.pt", lambda t: {"state_dict": t}, 0),
        ("a.bin", lambda t: {"state_dict": t, "epoch": 3, "optimizer_states": [{"lr": 1e-4}]}, 2),
        ("A.CKPT", lambda t: {"state_dict": {**t, "note": "text"}}, 1),
    ],
)
def test_each_form_gives_the_same_tensors(name: str, wrap: Callable[[Any], Any], extra: int, tmp_path: Path) -> None:
    found = read_checkpoint(_write(tmp_path / name, wrap(TENSORS)))
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[key], t) and found.tensors[key].dtype == t.dtype for key, t in TENSORS.items())
    assert (found.name, found.extra) == (name, extra)


def test_a_pickle_of_torch_1_loads(tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    torch.save({"state_dict": TENSORS}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(path).tensors[KEY], TENSORS[KEY])


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "empty.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert (
        read_checkpoint(tmp_path / "empty.safetensors").sha256 == hashlib.sha256(b"\x02" + bytes(7) + b"{}").hexdigest()
    )


def _header(content: bytes, length: int | None = None) -> bytes:
    return (len(content) if length is None else length).to_bytes(8, "little") + content


def _entry(**changes: Any) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes}).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", b"", "not a safetensors file"),
        ("a.safetensors", b"\x01\x02\x03", "not a safetensors file"),
        ("a.safetensors", _header(b"{}", length=2**40), "not a safetensors file"),
        ("a.safetensors", _header(b"{", length=500), "truncated: expected 508 bytes or more, found 9"),
        ("a.safetensors", _header(b"not json") + bytes(16), "not a table of tensors"),
        ("a.safetensors", _header(b"[" * 5000), "not a table of tensors"),
        ("a.safetensors", _header(b'{"a": 3}'), "not a table of tensors"),
        ("a.safetensors", _header(_entry()) + bytes(15), r"truncated: expected \d+ bytes, found \d+"),
        ("a.safetensors", _header(_entry()) + bytes(17), "longer than its header declares"),
        ("a.safetensors", _header(_entry(shape=[5])) + bytes(16), "not a valid safetensors file"),
        ("a.safetensors", _header(_entry(dtype="F33")) + bytes(16), "not a valid safetensors file"),
        ("a.ckpt", b"", "damaged or no checkpoint"),
        ("a.ckpt", b"PK\x03\x04 not a zip", "refused|damaged"),
        ("a.ckpt", b"<html>404</html>", "refused|damaged"),
        ("a.ckpt", pickle.dumps([1, 2]), "refused|damaged|expected a table of tensors"),
        ("a.onnx", b"x", r"expected a file ending in \.safetensors"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["absent.safetensors", "absent.ckpt"])
def test_an_absent_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: No such file"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(name: str, share: float, tmp_path: Path) -> None:
    path = _write(tmp_path / name, TENSORS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(path)


class _Calls:
    """A pickle that calls a function when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("hostile", "named"),
    [
        (lambda mark: _Calls(os.system, f"touch {mark}"), "system"),
        (lambda mark: _Calls(builtins.eval, f"open({mark!r}, 'w')"), "eval"),
        (lambda mark: _Calls(open, mark, "w"), "open"),
        (lambda mark: [{"a": (_Calls(Path.touch, Path(mark)),)}], r"pathlib|getattr"),
    ],
)
def test_a_hostile_pickle_is_refused_and_runs_nothing(
    hostile: Callable[[str], Any], named: str, zipped: bool, tmp_path: Path
) -> None:
    mark, path = tmp_path / "ran", tmp_path / "hostile.ckpt"
    torch.save({"state_dict": TENSORS | {"x": hostile(str(mark))}}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=f"refused: it is a pickle that asks for .*({named})") as caught:
        read_checkpoint(path)
    assert "weights_only" not in str(caught.value)  # torch's message says how to run it after all
    assert not mark.exists()


@pytest.mark.parametrize("tensor", [torch.ones(3).to_sparse(), torch.ones(3, device="meta")], ids=["sparse", "meta"])
def test_a_tensor_without_plain_data_does_not_count(tensor: Tensor, tmp_path: Path) -> None:
    found = read_checkpoint(_write(tmp_path / "a.ckpt", TENSORS | {"x": tensor}))
    assert (found.tensors.keys(), found.extra) == (TENSORS.keys(), 1)


# What `v1-5-pruned` may hold beside its networks.
LEFTOVERS = [
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "logvar",
    "model_ema.decay",
    "model_ema.num_updates",
    "loss.discriminator.main.0.weight",
    "first_stage_model.loss.logvar",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
]


def test_leftovers_of_training_are_ignored_and_counted(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.safetensors", TENSORS | {key: torch.zeros(1) for key in LEFTOVERS})
    networks = split_networks(read_checkpoint(path), "ema")
    assert networks.ignored == {"averaging counters": 2, "loss": 2, "position_ids": 1, "schedule buffers": 13}
    assert (list(networks.unet), list(networks.text_encoder)) == (["out.2.bias"], ["final_layer_norm.bias"])
    assert networks.weights == "as stored"


@pytest.mark.parametrize("key", [KEY, EMA_KEY, "first_stage_model.encoder.conv_in.weight", "betas2", "control_model.x"])
def test_weights_are_no_leftovers(key: str) -> None:
    assert ignored_kind(key) is None


@pytest.mark.parametrize(
    ("weights", "tensors", "expected", "said"),
    [
        ("ema", {KEY: 1.0}, 1.0, "as stored"),
        ("raw", {KEY: 1.0}, 1.0, "as stored"),
        ("ema", {KEY: 1.0, EMA_KEY: 2.0}, 2.0, "ema"),
        ("raw", {KEY: 1.0, EMA_KEY: 2.0}, 1.0, "raw"),
        ("ema", {KEY: 1.0, "model_ema.decay": 0.5}, 1.0, "as stored"),
    ],
)
def test_the_asked_weights_are_taken(
    weights: Any, tensors: dict[str, float], expected: float, said: str, tmp_path: Path
) -> None:
    path = _write(tmp_path / "a.safetensors", {key: torch.full((4,), value) for key, value in tensors.items()})
    networks = split_networks(read_checkpoint(path), weights)
    assert (networks.unet["out.2.bias"][0].item(), networks.weights) == (expected, said)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {KEY: 4, "model.diffusion_model.out.2.weight": 3, EMA_KEY: 4},
            "1 key missing: model_ema.diffusion_modelout2weight",
        ),
        ({KEY: 4, EMA_KEY: 5}, r"model_ema.diffusion_modelout2bias \(expected float \(4,\), found float32 \(5,\)\)"),
        ({KEY: 4, EMA_KEY: 4, "model_ema.x": 1}, "1 key unexpected: model_ema.x"),
        ({KEY: 4, "control_model.x": 1}, "1 unexpected keys, of no network.*control_model.x"),
        ({KEY: 4, "lora.": 1} | {f"z{i}": 1 for i in range(20)}, "21 unexpected keys.*and 11 more"),
        ({"decoder.conv_in.weight": 1, "encoder.conv_in.weight": 1}, "--vae NAME=PATH"),
        ({"lora_unet_x": 1}, "is no Stable Diffusion checkpoint.*found lora_unet_x"),
        ({"conditioner.embedders.0.x": 1}, "Stable Diffusion XL"),
        ({"cond_stage_model.model.x": 1, KEY: 4}, "Stable Diffusion 2"),
        ({}, "found none"),
    ],
)
def test_wrong_keys_are_listed(tensors: dict[str, int], message: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "a.safetensors", {key: torch.zeros(length) for key, length in tensors.items()})
    with pytest.raises(CheckpointError, match=message) as caught:
        split_networks(read_checkpoint(path), "ema")
    assert str(caught.value).startswith("a.safetensors")


def test_an_autoencoder_file_keeps_its_plain_keys(tmp_path: Path) -> None:
    keys = [
        "encoder.conv_in.weight",
        "post_quant_conv.bias",
        "loss.logvar",
        "model_ema.decay",
        "model_ema.encoderconv_inweight",
    ]
    path = _write(tmp_path / "vae.ckpt", {"state_dict": {key: torch.zeros(1) for key in keys}, "epoch": 1})
    tensors, ignored = split_vae(read_checkpoint(path))
    assert list(tensors) == keys[:2]
    assert ignored == {"averaged copies": 2, "loss": 1, "other entries": 1}


def test_another_file_is_no_autoencoder(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=re.escape("expected keys encoder.*, decoder.*, found model.diffusion_model")
    ):
        split_vae(read_checkpoint(_write(tmp_path / "a.safetensors", {KEY: torch.zeros(1)})))
