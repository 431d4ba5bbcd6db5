"""`latentrt pack`: the smallest bundle that serves on a target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from latentrt.engines.bundle import Bundle
from latentrt.engines.licence import asked_of_distributors
from latentrt.engines.pack import pack

from .printing import one_line


def pack_command(
    console: Console,
    path: Path,
    output: Path,
    engines: Sequence[str],
    decoders: Sequence[str],
    engine_dir: Path | None,
    overwrite: bool,
) -> None:
    """Pack, and print what each component is served by, and how small it all is."""
    bundle = Bundle.open(path, engine_dir)
    with console.status(f"packing {path}"):
        packed = pack(bundle, output, engines=engines, decoders=decoders, overwrite=overwrite)
    for name, component in packed.manifest.components.items():
        engines_of_it = () if component.packed is None else component.packed.engines
        print(f"{name:24} {' '.join(engines_of_it) or 'its graph: no engine of it was packed'}")
    megabytes = [sum(file.size for file in one.manifest.files.values()) / 1e6 for one in (packed, bundle)]
    print(one_line(f"{output}: {megabytes[0]:.1f} MB of {megabytes[1]:.1f} MB"))
    console.print(f"note: {asked_of_distributors(packed.manifest.licence)}", markup=False)
