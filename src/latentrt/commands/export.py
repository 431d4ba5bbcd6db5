"""`latentrt export`: a checkpoint to a bundle, with a bar and each component's error against PyTorch."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from latentrt.engines.errors import EngineError, InputError

from .protection import missing_protection


def export_command(
    console: Console,
    source: Path,
    output: Path,
    vaes: list[str],
    weights: Literal["ema", "raw"],
    overwrite: bool,
    safety_checker: Path | None = None,
    licence: Path | None = None,
) -> None:
    """Check the words, export, and print the bundle's place and hash."""
    named = dict(map(_named_path, vaes))
    if len(named) != len(vaes):
        raise InputError("--vae gives one name twice; each decoder needs a name of its own")
    with console.status("loading PyTorch"), _quiet_imports():
        try:
            from latentrt.export.bundle_writer import Progress as Part
            from latentrt.export.export import export_bundle
        except ImportError as error:
            raise EngineError(f"export needs PyTorch and {error.name}: pip install 'latentrt[export]'") from error
    columns = (TextColumn("exporting {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(source.name, total=None)

        def report(part: Part) -> None:
            bar.update(task, description=part.part, completed=part.index + (part.seconds is not None), total=part.total)
            if part.seconds is not None:
                error = "" if part.max_abs_error is None else f"  {part.max_abs_error:.1e} from PyTorch"
                bar.console.print(f"{part.part:24} {part.seconds:5.1f} s{error}", markup=False)

        manifest = export_bundle(
            source,
            output,
            vaes=named,
            weights=weights,
            safety_checker=safety_checker,
            licence=licence,
            report=report,
            overwrite=overwrite,
        )
    for note in missing_protection(manifest):
        console.print(f"note: {note}", markup=False)
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
