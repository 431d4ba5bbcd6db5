"""`latentrt export`: a checkpoint to a bundle, with a bar and each component's error against PyTorch."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from latentrt.engines.derived import parse_size
from latentrt.engines.errors import EngineError, InputError


def export_command(
    console: Console,
    source: Path,
    output: Path,
    vaes: list[str],
    weights: Literal["ema", "raw"],
    overwrite: bool,
    golden_sizes: list[str],
    golden_rows: list[int],
) -> None:
    """Check the words, export, and print the bundle's place and hash."""
    named = dict(map(_named_path, vaes))
    if len(named) != len(vaes):
        raise InputError("--vae gives one name twice; each decoder needs a name of its own")
    sizes = tuple(map(parse_size, golden_sizes))
    with console.status("loading PyTorch"), _quiet_imports():
        try:
            from latentrt.export.component_writer import Progress as Part
            from latentrt.export.export import export_bundle
            from latentrt.export.golden import Further
        except ImportError as error:
            raise EngineError(f"export needs PyTorch and {error.name}: pip install 'latentrt[export]'") from error
    columns = (TextColumn("exporting {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(source.name, total=None)

        def report(part: Part) -> None:
            done = part.seconds is not None
            bar.update(task, description=f"{part.part} {part.doing}", completed=part.index + done, total=part.total)
            if part.seconds is not None and part.size is not None:
                rate = part.size / part.seconds / 1e6
                figures = f"{part.seconds:6.1f} s {part.size / 1e6:7.1f} MB {rate:6.1f} MB/s"
                bar.console.print(f"{part.part:24}{figures}  {part.max_abs_error:.1e} from PyTorch", markup=False)

        further = Further(sizes, tuple(golden_rows))
        manifest = export_bundle(
            source, output, vaes=named, weights=weights, further=further, report=report, overwrite=overwrite
        )
    print(f"{output} {manifest.bundle_hash()}")


def _named_path(word: str) -> tuple[str, Path]:
    name, equals, path = word.partition("=")
    if not (name and equals and path):
        raise InputError(f"--vae expects NAME=PATH, such as ft-mse=vae-ft-mse.safetensors; got {word!r}")
    return name, Path(path)


@contextlib.contextmanager
def _quiet_imports() -> Iterator[None]:
    """Some of the libraries print advice when they are imported; an import error still comes through."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
