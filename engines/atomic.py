"""Write a file or a folder whole or not at all: beside its place, under a hidden name, then renamed.

Both are context managers that yield the hidden place to write to. Where the block ends without an error the result gets
its name; after any error, Ctrl-C included, nothing of it is left, and what was there before is still there.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another place",
    errno.EFBIG: "the file system takes no file of this size; choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "no permission to write there; choose another place",
    errno.EPERM: "no permission to write there; choose another place",
}


@contextmanager
def new_file(target: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield the path to write; it becomes `target` when the block ends. Only a plain file is ever replaced.

    Raises:
        OutputError: `target` is there and may not be replaced, or it cannot be written.
    """
    _check(target, overwrite, replaces="file")
    beside = _beside(target)
    with named_errors(target, beside):
        try:
            yield beside
            beside.replace(target)
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `target` when the block ends. Only a folder is ever replaced.

    The old folder is renamed away and the new one renamed in: no moment shows a mixture of both.

    Raises:
        OutputError: `target` is there and may not be replaced, or it cannot be written.
    """
    _check(target, overwrite, replaces="folder")
    beside = _beside(target)
    with named_errors(target, beside):
        try:
            beside.mkdir()
            yield beside
            _rename_folder(beside, target, overwrite)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _rename_folder(beside: Path, target: Path, overwrite: bool) -> None:
    if not (overwrite and target.exists()):
        beside.rename(target)  # refuses a folder with anything in it that came meanwhile
        return
    old = _beside(target)
    try:
        target.rename(old)
        beside.rename(target)
    except BaseException:  # Ctrl-C between the two as well
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check(target: Path, overwrite: bool, *, replaces: str) -> None:
    """Refuse what can be refused before any work is done."""
    parent = target.parent
    if not parent.is_dir():
        found = "is not a folder" if parent.exists() else "does not exist; create it first"
        raise OutputError(f"cannot write {target}: {parent} {found}")
    if not (target.exists() or target.is_symlink()):
        return
    plain = target.is_dir() if replaces == "folder" else target.is_file()
    if not plain or target.is_symlink():
        raise OutputError(f"cannot write {target}: it is there and is not a plain {replaces}; choose another path")
    if not overwrite:
        raise OutputError(f"cannot write {target}: it is there already; choose another path or ask to overwrite it")


def _beside(target: Path) -> Path:
    """A hidden name in the same folder, hence on the same file system, where a rename is one step."""
    return target.absolute().with_name(f".{target.name}.{secrets.token_hex(4)}.partial")


@contextmanager
def named_errors(target: Path, beside: Path) -> Iterator[None]:
    """Turn the system's errors of writing into one that names `target`; those of other files pass unchanged."""
    try:
        yield
    except OSError as error:
        # a full disk is reported by write(), which knows no file name
        about = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else None
        if about is not None and not about.startswith((str(beside), str(target.absolute()))):
            raise
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(f"cannot write {target}: {reason}") from error
