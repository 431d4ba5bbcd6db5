"""One checkpoint file: what it holds, read without trusting it; the data of its tensors only when asked for."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from latentrt.engines.errors import CheckpointError
from latentrt.engines.hashing import file_sha256

from .pickles import check_size, is_plain, load_pickle, one_line

PICKLES = (".ckpt", ".pt", ".bin")
SUFFIXES = (".safetensors", *PICKLES)
MAX_HEADER_BYTES = 16 * 2**20  # SD 1.5's safetensors header is some 200 KB


@dataclass(frozen=True)
class Checkpoint:
    """What one file holds; `extra` counts entries that are no tensors.

    `tensors` are on the meta device: shapes and dtypes by key, no data. `read` gives the data.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    extra: int = 0

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of these keys, as stored: mapped, not copied, wherever the file's form allows.

        Raises:
            CheckpointError: the file is no longer what it was.
        """
        wanted = set(keys)
        try:
            if self.path.suffix.lower() in PICKLES:
                return {key: tensor for key, tensor in _plain(_read_pickle(self.path)).items() if key in wanted}
            with safe_open(self.path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in wanted}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.path} cannot be read: {one_line(error)}") from error


@dataclass(frozen=True)
class Section:
    """Some of a file's tensors, under the names that they have in their network."""

    checkpoint: Checkpoint
    keys: Mapping[str, str]  # name in the network -> key in the file

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Shapes and dtypes, on the meta device."""
        return {name: self.checkpoint.tensors[key] for name, key in self.keys.items()}

    def read(self) -> dict[str, Tensor]:
        """The data, as stored."""
        found = self.checkpoint.read(self.keys.values())
        return {name: found[key] for name, key in self.keys.items()}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what a safetensors file, or a pickle of plain tensors (`state_dict` wrapper or none), holds.

    Nothing in it is executed.

    Raises:
        CheckpointError: absent, of an unknown suffix, truncated, corrupt, or a pickle of anything but plain data.
    """
    if not path.exists():
        raise CheckpointError(f"{path} cannot be read: {os.strerror(errno.ENOENT)}")
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"{path} is no checkpoint: expected a file ending in {', '.join(SUFFIXES)}")
    try:
        sha256 = file_sha256(path)
        if path.suffix.lower() in PICKLES:
            entries: Mapping[Any, Any] = _read_pickle(path)
            metadata: dict[str, str] = {}
        else:
            check_safetensors_length(path)
            entries, metadata = _read_safetensors(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    tensors = _plain(entries)
    check_size(path, tensors)
    shapes = {key: tensor.to("meta") for key, tensor in tensors.items()}
    return Checkpoint(path, sha256, shapes, metadata, len(entries) - len(tensors))


def check_safetensors_length(path: Path) -> None:
    """Compare a safetensors file's length with what its header declares.

    Raises:
        CheckpointError: names the file, the expected length and the byte where it ends.
    """
    actual = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if actual < 8 or length > MAX_HEADER_BYTES:
            raise CheckpointError(f"{path} is not a safetensors file: its header would have {length} bytes of {actual}")
        header = file.read(length)
    if len(header) < length:
        raise CheckpointError(
            f"{path} is truncated: expected {8 + length} bytes or more, it ends at byte {actual}; copy it again"
        )
    expected = 8 + length + _declared_bytes(path, header)
    if actual != expected:
        what = "truncated" if actual < expected else "longer than its header declares"
        raise CheckpointError(f"{path} is {what}: expected {expected} bytes, it ends at byte {actual}; copy it again")


def _declared_bytes(path: Path, header: bytes) -> int:
    try:
        entries = json.loads(header)
        return max((int(e["data_offsets"][1]) for key, e in entries.items() if key != "__metadata__"), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: its header is not a table of tensors") from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a valid safetensors file: {one_line(error)}") from error


def _read_pickle(path: Path) -> Mapping[Any, Any]:
    """The entries of a pickle, those inside its `state_dict` beside those outside."""
    content = load_pickle(path)
    if not isinstance(content.get("state_dict"), Mapping):
        return content
    outside = {("outside state_dict", key): value for key, value in content.items() if key != "state_dict"}
    return {**content["state_dict"], **outside}


def _plain(entries: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in entries.items() if isinstance(key, str) and is_plain(value)}
