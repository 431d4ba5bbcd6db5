"""One trial at a time on a machine: two would measure each other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from latentrt.engines.errors import EngineError, OutputError

NAME = "latentrt-bench.lock"


@contextmanager
def one_trial(what: str, folder: Path | None = None) -> Iterator[None]:
    """Hold the machine's lock while the block lasts; the system lets go of it when its holder dies.

    Args:
        what: is measured, for whoever finds the lock held.
        folder: of the lock, the system's temporary one if not given.

    Raises:
        EngineError: another trial holds it; it says which, and since when.
        OutputError: no file can be made there.
    """
    file = (Path(tempfile.gettempdir()) if folder is None else folder) / NAME
    lock = FileLock(file, mode=0o666)  # another user's trial is another trial too
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise EngineError(
            f"another bench runs on this machine ({_holder(file)}), and two would measure each other: "
            "wait for it to end, or end it"
        ) from None
    except OSError as error:
        raise OutputError(f"cannot write {file}, the lock of a bench: {error.strerror or error}") from error
    try:
        _tell(file, what)
        yield
    finally:
        lock.release()


def _tell(file: Path, what: str) -> None:
    """Leave word of who holds the lock beside it: a lock file itself may be emptied by whoever tries it."""
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    with suppress(OSError):
        _beside(file).write_text(f"process {os.getpid()}, of {what}, since {since}\n", encoding="utf-8")


def _holder(file: Path) -> str:
    try:
        return " ".join(_beside(file).read_text(encoding="utf-8").split()) or "it does not say which"
    except OSError:
        return "it does not say which"


def _beside(file: Path) -> Path:
    return file.with_suffix(".holder")
