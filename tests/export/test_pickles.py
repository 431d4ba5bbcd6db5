"""Pickles that want to run something, or to take more memory than they have bytes; and honest ones of every age."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import resource
import struct
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from latentrt.engines.errors import CheckpointError
from latentrt.export.checkpoint import read_checkpoint

KEY = "model.diffusion_model.out.2.bias"
TENSORS = {KEY: torch.arange(4.0)}


class _Calls:
    """A pickle that calls a function when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


HOSTILE = {
    "os.system": (lambda mark: _Calls(os.system, f"touch {mark}"), r"(posix|nt)\.system"),
    "eval": (lambda mark: _Calls(builtins.eval, f"open({mark!r}, 'w')"), "eval"),
    "open": (lambda mark: _Calls(open, mark, "w"), "open"),
    "nested": (lambda mark: [{"a": (_Calls(Path.touch, Path(mark)),)}], r"pathlib|getattr"),
    "reduce in reduce": (lambda mark: _Calls(list, _Calls(map, os.system, [f"touch {mark}"])), "list|map|system"),
    "bytearray of 10 GB": (lambda mark: _Calls(bytearray, 10**10), "bytearray"),
    "tensor of 10 GB": (lambda mark: _Calls(torch.Tensor, 50_000, 50_000), r"torch\.Tensor"),
    "import": (lambda mark: _Calls(__import__, "antigravity"), "__import__"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_pickle_is_refused_and_runs_nothing(case: str, zipped: bool, tmp_path: Path) -> None:
    hostile, named = HOSTILE[case]
    mark, path = tmp_path / "ran", tmp_path / "hostile.ckpt"
    torch.save({"state_dict": TENSORS | {"x": hostile(str(mark))}}, path, _use_new_zipfile_serialization=zipped)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=f"refused: it is a pickle that asks for .*({named})") as caught:
        read_checkpoint(path)
    assert "weights_only" not in str(caught.value)  # torch's message says how to run it after all
    assert not mark.exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def _archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _table(numel: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """`{KEY: a float tensor}` as torch writes it, with a storage of any declared length."""
    words = [b"\x80\x02}X", struct.pack("<I", len(KEY)), KEY.encode()]
    words += [b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"]
    words += [b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu", _number(numel), b"tQK\x00("]
    words += [*map(_number, shape), b"t(", *map(_number, stride), b"t\x89ccollections\nOrderedDict\n)RtRs."]
    return b"".join(words)


def _number(value: int) -> bytes:
    data = pickle.dumps(value, 2)
    return data[2:-1]  # without the protocol and the stop


def _with_table(table: bytes, data: bytes = bytes(16)) -> dict[str, bytes]:
    return {"a/data.pkl": table, "a/byteorder": b"little", "a/data/0": data, "a/version": b"3\n"}


def test_the_handmade_table_is_read(tmp_path: Path) -> None:
    path = _archive(tmp_path / "a.ckpt", _with_table(_table(4, (4,), (1,)), struct.pack("<4f", 1, 2, 3, 4)))
    assert read_checkpoint(path).read([KEY])[KEY].tolist() == [1, 2, 3, 4]


GB10 = 2_500_000_000  # float32s


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (_with_table(_table(4, (4,), (1,))) | {"../outside": b"x"}, r"'\.\./outside', which leaves its folder"),
        (_with_table(_table(4, (4,), (1,))) | {"/etc/passwd": b"x"}, "leaves its folder"),
        (_with_table(_table(4, (4,), (1,))) | {"b/data.pkl": b"x"}, "2 tables of tensors"),
        ({"a/version": b"3\n"}, "0 tables of tensors"),
        (_with_table(_table(GB10, (GB10,), (1,))), "refused|damaged"),
        (_with_table(_table(4, (GB10,), (1,))), "damaged"),
        (_with_table(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."), "asks for 'os.system'"),
        (_with_table(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."), "pickle of Python objects"),
        (_with_table(b"\x80\x02ios\nsystem\n."), "refused|damaged"),
        (_with_table(b"(S'true'\nios\nsystem\n."), "pickle of Python objects"),
        (_with_table(b"\x80\x02\x82\x01."), "pickle of Python objects"),
        (_with_table(b"\x80\x02}"), "damaged"),
        (_with_table(b""), "damaged"),
    ],
)
def test_a_hostile_archive_is_refused(members: dict[str, bytes], message: str, tmp_path: Path) -> None:
    path = _archive(tmp_path / "hostile.ckpt", members)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB
    assert [file.name for file in tmp_path.iterdir()] == ["hostile.ckpt"]


def test_a_view_that_repeats_one_number_does_not_count_as_10_gb(tmp_path: Path) -> None:
    found = read_checkpoint(_archive(tmp_path / "a.ckpt", _with_table(_table(4, (GB10,), (0,)))))
    assert (found.tensors, found.extra) == ({}, 1)


def test_many_tensors_of_one_memory_are_refused(tmp_path: Path) -> None:
    """Each would be converted for itself: a small file that asks for a thousand times its size."""
    weight = torch.zeros(2**18)
    torch.save({f"key{i}": weight for i in range(1000)}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"declare 1048576000 bytes and the file ends at byte \d{7};"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = _archive(tmp_path / "bomb.ckpt", _with_table(_table(4, (4,), (1,))), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(path)


def _legacy(*parts: object, tail: bytes = b"") -> bytes:
    return b"".join(pickle.dumps(part, 2) for part in parts) + tail


@pytest.mark.parametrize(
    "content",
    [
        _legacy(12345, 1001, {}, {}, []),  # wrong magic number
        _legacy(0x1950A86A20F9469CFC6C, 7, {}, {}, []),  # wrong protocol
        _legacy(0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}),  # ends before the table
        b"\x80\x02" + b"K\x01" * 10,
        bytes(1000),
    ],
)
def test_a_wrong_or_broken_legacy_pickle_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"a.ckpt is (refused|damaged).*|byte {len(content)}") as caught:
        read_checkpoint(tmp_path / "a.ckpt")
    assert "\n" not in str(caught.value)


def test_a_legacy_pickle_that_declares_10_gb_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save(TENSORS, stream, _use_new_zipfile_serialization=False)
    content = stream.getvalue().replace(b"K\x04Nt", _number(GB10) + b"Nt")
    assert len(content) > len(stream.getvalue())
    (tmp_path / "a.ckpt").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=rf"damaged or no checkpoint \(it ends at byte {len(content)}\)"):
        read_checkpoint(tmp_path / "a.ckpt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


@pytest.fixture
def lightning() -> Iterator[type]:
    """A class under the name that `v1-5-pruned.ckpt` holds as a key; importable while the file is written."""
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint"]
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    made = type("ModelCheckpoint", (), {"__module__": names[-1]})
    sys.modules[names[-1]].ModelCheckpoint = made  # type: ignore[attr-defined]
    yield made
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_pytorch_lightning_loads_without_it(lightning: type, zipped: bool, tmp_path: Path) -> None:
    """Its classes may be named, called with arguments and given a state: nothing of it is imported or kept."""
    state = lightning()
    state.best_model_score = 3
    callbacks = {lightning: {"monitor": "val/loss", "best": state}}
    content = {"state_dict": TENSORS, "callbacks": callbacks, "optimizer_states": [{"state": {0: torch.ones(2)}}]}
    content |= {"pytorch-lightning_version": "1.4.2"}
    torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    for name in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
        del sys.modules[name]
    found = read_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(found.read([KEY])[KEY], TENSORS[KEY])
    assert (list(found.tensors), found.extra) == ([KEY], 3)
    assert not any(name.startswith("pytorch_lightning") for name in sys.modules)
    assert not any(isinstance(allowed, tuple) for allowed in torch.serialization.get_safe_globals())


def test_numbers_of_numpy_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    import numpy as np

    torch.save({"state_dict": TENSORS, "best": np.float64(0.5)}, tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt").extra == 1
