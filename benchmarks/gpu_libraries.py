"""Where a GPU's libraries are, for a process that is started here."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path


def environment() -> dict[str, str]:
    """Our own, with the folders of CUDA's Python packages where the loader looks, which ONNX Runtime relies on."""
    spec = importlib.util.find_spec("nvidia")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    folders = [str(folder) for place in places for folder in sorted(Path(place).glob("*/lib"))]
    known = os.environ.get("LD_LIBRARY_PATH")
    return dict(os.environ) | {"LD_LIBRARY_PATH": ":".join([*folders, *([known] if known else [])])}
