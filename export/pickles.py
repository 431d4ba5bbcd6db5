"""Read a pickle of plain tensors without trusting it: its words are read before PyTorch acts on any of them.

`torch.load(weights_only=True)` alone calls what it knows. Here every class and function that a pickle names must be one
that tensors are made of; names of training frameworks' own classes (`v1-5-pruned.ckpt` has a PyTorch Lightning class as
a key of a table) become inert placeholders, and their code is never imported.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch
from torch import Tensor

from latentrt.engines.errors import CheckpointError

MAX_PICKLE_BYTES = 64 * 2**20  # the table of v1-5-pruned, without the tensors' data, has some 300 KB
MAX_SHARING = 4  # tensors may share memory (tied weights), and may not declare much more than the file has

_ZIP = b"PK\x03\x04"  # by which torch tells its two forms
_LEGACY_PICKLES = 5  # magic number, protocol, system, the content, the storages' keys
_TENSOR_PARTS = re.compile(
    r"collections\.(OrderedDict|Counter)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter|sparse_tensor|meta_tensor_no_storage)"
    r"|torch\.(Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
    r"|torch\.(float16|float32|float64|bfloat16|u?int8|int16|int32|int64|bool|Size|device)"
    r"|torch\.serialization\._get_layout|_codecs\.encode"
)
_INERT = re.compile(
    r"(pytorch_lightning|lightning|omegaconf)\.[\w.]+|numpy\.(dtype|(_core|core)\.multiarray\.(scalar|_reconstruct))"
)
_OTHER_CALLS = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}  # torch 1.x and 2.x write none


class Inert:
    """Stands for an object of a training framework: it takes any arguments and any state, and keeps nothing."""

    def __new__(cls, *_: object) -> Inert:
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        """Ignore the arguments."""

    def __setstate__(self, _: object) -> None:
        """Ignore the state."""


def load_pickle(path: Path) -> Mapping[Any, Any]:
    """The table in a pickle file: a zip archive, whose tensors are mapped, or the bare pickle of torch 1.x, read whole.

    Nothing in it is executed, and what it declares beyond the file's own size is refused.

    Raises:
        CheckpointError: truncated, corrupt, or a pickle of anything but plain data.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == _ZIP
        file.seek(0)
        names = _zip_names(path, file) if zipped else _legacy_names(path, file)
    inert = [(_placeholder(name), name) for name in sorted(names) if _allowed(path, name) is _INERT]
    try:
        with torch.serialization.safe_globals(inert):  # type: ignore[arg-type] # a pair is a class and its name
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise _refused(path, "it is not a pickle of plain tensors") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise _damaged(path, error) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} is no checkpoint: expected a table of tensors, found {type(content).__name__}")
    return content


def is_plain(value: object) -> bool:
    """A dense tensor that has its data (a pickle may also hold sparse and meta tensors, and views that repeat)."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_meta:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def check_size(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that would take far more memory than the file has bytes.

    Raises:
        CheckpointError: names both sizes.
    """
    declared, actual = sum(t.numel() * t.element_size() for t in tensors.values()), path.stat().st_size
    if declared > MAX_SHARING * actual:
        raise _refused(path, f"its tensors declare {declared} bytes and the file ends at byte {actual}")


def one_line(error: Exception) -> str:
    """What a library says, on one line and no longer than a message may be."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _zip_names(path: Path, file: IO[bytes]) -> set[str]:
    """What the pickle in a zip archive names, once the archive is one that torch writes: stored, flat, whole."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            for member in members:
                _check_member(path, member)
            pickles = [m for m in members if PurePosixPath(m.filename).name == "data.pkl"]
            if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
                raise _refused(path, f"it is a zip archive with {len(pickles)} tables of tensors, not a small one")
            with archive.open(pickles[0]) as stream:
                return set(_names(path, stream))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise _damaged(path, error) from error


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in member.filename:
        raise _refused(path, f"it is a zip archive with the member {member.filename!r}, which leaves its folder")
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise _refused(path, f"it is a zip archive whose member {member.filename!r} is compressed or encrypted")


def _legacy_names(path: Path, file: IO[bytes]) -> set[str]:
    """What the pickles of torch 1.x name; they stand one after another before the data."""
    try:
        return {name for _ in range(_LEGACY_PICKLES) for name in _names(path, file)}
    except ValueError as error:
        raise _damaged(path, error) from error


def _names(path: Path, stream: IO[bytes]) -> Iterator[str]:
    """Every class or function that one pickle names, read without acting on any of it."""
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in _OTHER_CALLS:
            raise _refused(path, "it is a pickle of Python objects, and only plain tensors are read")
        if opcode.name == "GLOBAL":
            yield str(argument).replace(" ", ".")


def _allowed(path: Path, name: str) -> re.Pattern[str]:
    """Which of the two patterns a name fits."""
    for pattern in (_TENSOR_PARTS, _INERT):
        if pattern.fullmatch(name):
            return pattern
    raise _refused(path, f"it is a pickle that asks for {name!r}, and only plain tensors are read")


def _placeholder(name: str) -> type[Inert]:
    module, _, qualname = name.rpartition(".")
    return type(qualname, (Inert,), {"__module__": module})


def _refused(path: Path, reason: str) -> CheckpointError:
    """PyTorch's own message is not shown: it explains how to load the file unsafely."""
    return CheckpointError(f"{path} is refused: {reason}; ask for a .safetensors file")


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged or no checkpoint (it ends at byte {path.stat().st_size}): {one_line(error)}; copy it again"
    )
