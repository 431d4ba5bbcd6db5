"""`latentrt triton`: write a bundle as a model of a Triton model repository."""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.console import Console

from latentrt.engines.auto import AUTO
from latentrt.engines.backend import backend_names
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import InputError, unknown_name
from latentrt.engines.licence import asked_of_distributors
from latentrt.engines.memory_words import parse_memory
from latentrt.runtime.serve.triton.parameters import Parameters
from latentrt.runtime.serve.triton.repository import BUNDLE, write_repository
from latentrt.runtime.tiling import check_tile

from .printing import one_line


def triton_command(
    console: Console,
    path: Path,
    output: Path,
    parameters: Parameters,
    *,
    model_name: str | None,
    bundle_at: Path | None,
) -> None:
    """Write it, and print the model's folder. What `parameters` say of the bundle's place is put right here."""
    _check(parameters)
    bundle = Bundle.open(path, None if parameters.engine_dir is None else Path(parameters.engine_dir))
    name = model_name or path.resolve().name
    if bundle_at is None:
        copied = msgspec.structs.replace(parameters, bundle=BUNDLE, engine_dir=None)
        with console.status(f"copying {path}"):
            model = write_repository(output, name, copied, bundle)
        console.print(f"note: {asked_of_distributors(bundle.manifest.licence)}", markup=False)
    else:
        for option, place in (("--bundle-at", bundle_at), ("--engine-dir", parameters.engine_dir)):
            if place is not None and not Path(place).is_absolute():
                raise InputError(
                    f"with --bundle-at, {option} is a path of the serving machine from its root; got {place}"
                )
        model = write_repository(output, name, msgspec.structs.replace(parameters, bundle=str(bundle_at)), None)
    print(one_line(str(model)))


def _check(parameters: Parameters) -> None:
    """Refuse now what the model would refuse when Triton loads it."""
    if parameters.engine == AUTO:
        raise InputError("--engine auto is not for Triton, which must know who has the GPU: name the engine")
    if parameters.engine not in backend_names():
        raise unknown_name("engine", parameters.engine, backend_names())
    if parameters.memory is not None:
        parse_memory(parameters.memory)
    check_tile(parameters.tile)
