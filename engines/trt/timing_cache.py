"""Which kernels were the fastest: measured once for a GPU and a version, for all bundles that are built there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .cuda import Gpu
from .family import Family
from .sealed import read_sealed, write_sealed


def timing_file(family: Family, gpu: Gpu) -> Path:
    """The file under the user's cache folder; its name says all that the measurements depend on."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{family.name} {family.version} {gpu.name} {gpu.sm} cuda {gpu.cuda}")
    return Path(home) / "latentrt" / "timing" / f"{name}.cache"


@contextmanager
def timed(config: Any, file: Path) -> Iterator[None]:
    """Build with what the file knows, and let it know what was measured."""
    cache = config.create_timing_cache(read_sealed(file) or b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    write_sealed(file, bytes(cache.serialize()))
