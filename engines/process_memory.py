"""What this process takes of the machine's memory, and giving back what it no longer uses. Linux alone tells."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

from .errors import EngineError


def resident_bytes(pid: int | None = None) -> int:
    """The resident set of a process, or of this one; files that are mapped and were read count.

    Raises:
        EngineError: the system does not tell.
    """
    return _field("VmRSS", pid)


def peak_bytes() -> int:
    """The greatest resident set of this process since it began its program.

    Raises:
        EngineError: the system does not tell.
    """
    return _field("VmHWM")


def give_back() -> None:
    """Have the allocator return to the system what closed engines left behind, where it can (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _field(name: str, pid: int | None = None) -> int:
    status = Path("/proc", "self" if pid is None else str(pid), "status")
    try:
        lines = status.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise EngineError(f"a memory budget needs Linux, which says in {status} what a process takes") from error
    [line] = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024  # the kernel's "kB" are KiB
