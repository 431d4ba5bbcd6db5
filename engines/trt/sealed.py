"""Caches that the library writes and reads: a file begins with the hash of the rest, so that damage is no input."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from ..atomic import new_file
from ..errors import OutputError

_SEAL = 32  # bytes of a SHA-256


def read_sealed(file: Path) -> bytes | None:
    """The content of a cache; None where there is none, or it is not what was written."""
    try:
        if file.is_symlink():
            return None
        data = file.read_bytes()
    except OSError:
        return None
    seal, content = data[:_SEAL], data[_SEAL:]
    return content if hashlib.sha256(content).digest() == seal else None


def write_sealed(file: Path, content: bytes) -> None:
    """Keep a cache for the next time, where the place can be written; it only saves time."""
    with suppress(OutputError, OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with new_file(file) as beside:
            beside.write_bytes(hashlib.sha256(content).digest() + content)
