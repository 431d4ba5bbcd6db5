"""What was measured, on disk at once: `journal.jsonl`, a header and then a line for each answer of a contestant.

A trial that was stopped goes on from it. Its last line may be torn, by a crash in the middle of writing, and is then
left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from latentrt.engines.errors import InputError, OutputError

from .conditions import Stretch
from .results import Environment, Machine, Settings

NAME = "journal.jsonl"
VERSION = 1
Key = tuple[str, str, int, int]


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="trial"):
    """The first line: which trial this is. One that goes on must agree in all but `started`."""

    version: int = VERSION
    started: str
    latentrt: str
    machine: Machine
    yardstick: str
    settings: Settings


class Ready(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="ready"):
    """A contestant can be started, and where it runs."""

    contestant: str
    title: str
    environment: Environment


class Measured(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="measured"
):
    """An answer.

    Attributes:
        what: was asked, such as "picture", "component unet", "batch 4", "clients 2".
        turn: the contestant's, from 0.
        index: of equal orders in a turn.
        found: the answer, as it came.
    """

    contestant: str
    what: str
    turn: int = 0
    index: int = 0
    found: Any = None
    stretch: Stretch | None = None

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.contestant, self.what, self.turn, self.index


class Declined(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="declined"
):
    """Something that a contestant said no to and went on from: no more of it is asked."""

    contestant: str
    what: str
    reason: str


class Failed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="failed"):
    """A contestant that could not be made ready, crashed or hung. It is tried again when the trial goes on."""

    contestant: str
    title: str
    reason: str


Line = Ready | Measured | Declined | Failed


class Journal:
    """An open journal: what was measured before, and a place for more."""

    def __init__(self, header: Header, lines: list[Line], file: BinaryIO) -> None:
        self.header = header
        self.lines = lines
        self._file = file
        self._keys = {line.key for line in lines if isinstance(line, Measured)}
        self._declined = {(line.contestant, line.what) for line in lines if isinstance(line, Declined)}

    def add(self, line: Line) -> None:
        """Write a line, and see it to the disk: what took minutes to measure must outlive the machine's power."""
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.lines.append(line)
        if isinstance(line, Measured):
            self._keys.add(line.key)
        if isinstance(line, Declined):
            self._declined.add((line.contestant, line.what))

    def has(self, contestant: str, what: str, turn: int = 0, index: int = 0) -> bool:
        """Whether it was measured, or declined for good."""
        return (contestant, what, turn, index) in self._keys or (contestant, what) in self._declined


@contextmanager
def open_journal(folder: Path, header: Header) -> Iterator[Journal]:
    """Begin a journal in a folder, or go on with the one that is there.

    Raises:
        InputError: the one that is there is of another trial; it says what differs.
        OutputError: it cannot be written.
    """
    path = folder / NAME
    try:
        before = _whole_lines(path.read_bytes()) if path.exists() else b""
        with path.open("r+b" if path.exists() else "xb") as file:
            file.truncate(len(before))
            file.seek(len(before))
            if before:
                found, lines = read_lines(before, path)
                _check_same(found, header, path)
            else:
                found, lines = header, []
                file.write(msgspec.json.encode(header) + b"\n")
                file.flush()
            yield Journal(found, lines, file)
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) != path:
            raise
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another folder with -o") from error


def read_journal(folder: Path) -> tuple[Header, list[Line]]:
    """The journal of a trial, which may still be going on.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / NAME
    try:
        return read_lines(_whole_lines(path.read_bytes()), path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; name the folder of a bench") from error


def read_lines(data: bytes, path: Path) -> tuple[Header, list[Line]]:
    """A journal's bytes; raises InputError where they are none."""
    try:
        first, *others = data.splitlines()
        header = msgspec.json.decode(first, type=Header)
        decoder = msgspec.json.Decoder(Line)
        lines: list[Line] = [decoder.decode(line) for line in others]
    except (ValueError, msgspec.DecodeError) as error:
        raise InputError(f"{path} is damaged: {error}; measure anew with --fresh, or into another folder") from error
    return header, lines


def _whole_lines(data: bytes) -> bytes:
    """All but a last line that has no end."""
    return data[: data.rfind(b"\n") + 1]


def _check_same(found: Header, wanted: Header, path: Path) -> None:
    told = differences(found, wanted)
    if told:
        raise InputError(
            f"{path} was begun with other settings: {'; '.join(told)}. Give those to go on with it, "
            "--fresh to measure anew, or another folder with -o"
        )


def differences(there: Header, here: Header) -> list[str]:
    """What two trials differ in, a few words each."""
    told = [
        f"{name} was {a}, now {b}"
        for name in ("version", "latentrt", "yardstick")
        if (a := getattr(there, name)) != (b := getattr(here, name))
    ]
    return [*told, *unlike(there.machine, here.machine), *unlike(there.settings, here.settings)]


def unlike(there: msgspec.Struct, here: msgspec.Struct, but: tuple[str, ...] = ()) -> list[str]:
    """Fields that differ between two of a kind, but for some: "steps was 20, now 10"."""
    return [
        f"{name} was {_shown(a)}, now {_shown(b)}"
        for name in there.__struct_fields__
        if name not in but and (a := getattr(there, name)) != (b := getattr(here, name))
    ]


def _shown(value: object) -> str:
    words = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    words = words or "none"
    return words if len(words) <= 60 else words[:57] + "..."
