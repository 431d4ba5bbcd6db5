"""Where compiled engines live: `BUNDLE/engines/<key>/`, each with a record of its key, its files and its check."""

from __future__ import annotations

from pathlib import Path

import msgspec

from .atomic import new_folder
from .backend import Backend
from .bundle import Bundle, sha256
from .errors import EngineError, OutputError
from .external_data import external_locations
from .golden import Verification, golden_cases, verify
from .key import EngineKey
from .manifest import FileRecord

FOLDER = "engines"
RECORD = "engine.json"


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`engine.json`: what lies in an engine's folder."""

    key: EngineKey
    files: dict[str, FileRecord]
    verification: Verification


def engine_folder(bundle: Bundle, key: EngineKey) -> Path:
    """The folder of the engine with this key, whether it is there or not."""
    return bundle.root / FOLDER / key.id


def build(backend: Backend, bundle: Bundle, component: str) -> tuple[EngineRecord, bool]:
    """Compile, check against PyTorch's answers, and store one component; returns its record and whether it is new.

    The same engine is not built twice. One that fails the check, or a build that is interrupted, leaves nothing.

    Raises:
        EngineError: the backend cannot compile it.
        CheckFailedError: the engine's answers are not PyTorch's.
    """
    key = backend.key(bundle, component)
    folder = engine_folder(bundle, key)
    if folder.exists():
        return load_record(folder), False
    _make_parent(folder)
    with new_folder(folder) as beside:
        backend.build(bundle, component, beside)
        files = {
            file.name: FileRecord(size=file.stat().st_size, sha256=sha256(file)) for file in sorted(beside.iterdir())
        }
        with backend.open(bundle, component, beside) as engine:
            verification = verify(engine, golden_cases(bundle, component))
        record = EngineRecord(key=key, files=files, verification=verification)
        (beside / RECORD).write_bytes(
            msgspec.json.format(msgspec.json.encode(record, order="sorted"), indent=2) + b"\n"
        )
    return record, True


def find(backend: Backend, bundle: Bundle, component: str) -> Path | None:
    """The folder of the engine that fits here and now, its files checked; None when none was built.

    Raises:
        EngineError: it is there, but damaged.
    """
    folder = engine_folder(bundle, backend.key(bundle, component))
    if not folder.exists():
        return None
    load_record(folder)
    return folder


def stored(bundle: Bundle) -> list[EngineRecord | EngineError]:
    """The records of all engines in the bundle, whether they fit here or not; an error in place of a damaged one."""
    folder = bundle.root / FOLDER
    if not folder.is_dir():
        return []
    entries = (entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith("."))
    return [_record_or_error(entry) for entry in entries]


def _record_or_error(folder: Path) -> EngineRecord | EngineError:
    try:
        return load_record(folder)
    except EngineError as error:
        return error


def load_record(folder: Path) -> EngineRecord:
    """The record in an engine's folder, once the folder's files are checked against it.

    Raises:
        EngineError: the record is missing, damaged, or of another engine; or a file is missing, altered or not listed.
    """
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=EngineRecord)
    except (OSError, ValueError) as error:  # ValueError: msgspec's own errors, and UnicodeDecodeError
        raise EngineError(f"{folder} holds no readable {RECORD}: {error}; {_rebuild(folder)}") from error
    if record.key.id != folder.name:
        raise EngineError(f"{folder} holds the engine {record.key.id}; {_rebuild(folder)}")
    _check_files(folder, record)
    return record


def _make_parent(folder: Path) -> None:
    try:
        folder.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot store engines in {folder.parent}: {error.strerror}") from error


def _check_files(folder: Path, record: EngineRecord) -> None:
    held = {entry.name for entry in folder.iterdir()}
    for name in sorted(held ^ {RECORD, *record.files}):
        reason = f"is not listed in {RECORD}" if name in held else "is missing"
        raise EngineError(f"{folder / name} {reason}; {_rebuild(folder)}")
    for name, expected in record.files.items():
        _check_file(folder / name, expected)
        if name.endswith(".onnx"):
            _check_stays_inside(folder, name, record)


def _check_file(file: Path, expected: FileRecord) -> None:
    fits = file.is_file() and not file.is_symlink() and file.stat().st_size == expected.size
    if not fits or sha256(file) != expected.sha256:
        raise EngineError(f"{file} is missing or altered since it was built; {_rebuild(file.parent)}")


def _check_stays_inside(folder: Path, name: str, record: EngineRecord) -> None:
    for location in external_locations((folder / name).read_bytes(), name):
        if location not in record.files:
            raise EngineError(f"{folder / name} takes weights from {location!r}, which {RECORD} does not list")


def _rebuild(folder: Path) -> str:
    return f"delete {folder} and run 'latentrt build' again"
