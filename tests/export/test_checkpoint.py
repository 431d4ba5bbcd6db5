"""Reading single files: every form, and every kind of damage."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from latentrt.engines.errors import CheckpointError
from latentrt.export.checkpoint import read_checkpoint

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
    assert all(tensor.is_meta for tensor in found.tensors.values())
    read = found.read(TENSORS)
    assert all(torch.equal(read[key], t) and read[key].dtype == t.dtype for key, t in TENSORS.items())
    assert (found.name, found.extra) == (name, extra)


def test_a_pickle_of_torch_1_loads(tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    torch.save({"state_dict": TENSORS}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(path).read([KEY])[KEY], TENSORS[KEY])


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
        ("a.safetensors", _header(b"{", length=500), "truncated: expected 508 bytes or more, it ends at byte 9"),
        ("a.safetensors", _header(b"not json") + bytes(16), "not a table of tensors"),
        ("a.safetensors", _header(b"[" * 5000), "not a table of tensors"),
        ("a.safetensors", _header(b'{"a": 3}'), "not a table of tensors"),
        ("a.safetensors", _header(_entry()) + bytes(15), r"truncated: expected \d+ bytes, it ends at byte \d+"),
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


@pytest.mark.parametrize("tensor", [torch.ones(3).to_sparse(), torch.ones(3, device="meta")], ids=["sparse", "meta"])
def test_a_tensor_without_plain_data_does_not_count(tensor: Tensor, tmp_path: Path) -> None:
    found = read_checkpoint(_write(tmp_path / "a.ckpt", TENSORS | {"x": tensor}))
    assert (found.tensors.keys(), found.extra) == (TENSORS.keys(), 1)
