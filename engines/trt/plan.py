"""A plan on disk -> the library's engine."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from ..errors import EngineError
from .family import Family
from .interruption import held_back
from .log import Log, reason

PLAN = "engine.plan"


def load_plan(family: Family, file: Path, log: Log, component: str) -> tuple[Any, Any]:
    """The library's runtime, which must outlive the engine, and its engine. `file` is what was built, by its hash.

    Raises:
        EngineError: the library does not take it: another version, another GPU, too little memory.
    """
    try:
        runtime = family.module.Runtime(log)
    except TypeError as error:  # pybind's word for a null pointer
        raise EngineError(f"{family.name} cannot run here: {reason(log)}") from error
    try:
        with (
            held_back(),
            file.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            engine = runtime.deserialize_cuda_engine(content)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise EngineError(f"{family.name} cannot read {file}: {error}; build the engine again") from error
    if engine is None:
        raise EngineError(f"{family.name} does not take the plan of {component} in {file.parent}: {reason(log)}")
    return runtime, engine
