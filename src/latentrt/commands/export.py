"""`latentrt export` and `add-decoder`: with a bar, and each component's rate and error against PyTorch."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from latentrt.engines.errors import EngineError, InputError
from latentrt.engines.size import parse_size

from .protection import missing_protection

if TYPE_CHECKING:
    from latentrt.engines.manifest import Manifest
    from latentrt.export.component_writer import Progress as Part
    from latentrt.export.component_writer import Report


@dataclass(frozen=True)
class ExportOptions:
    """What `export_bundle` takes beside paths and names; sizes are words such as 512x768."""

    weights: Literal["ema", "raw"] | None
    variant: str | None
    prediction: Literal["epsilon", "v_prediction"] | None
    precision: Literal["fp32", "fp16"]
    golden_sizes: tuple[str, ...]
    golden_rows: tuple[int, ...]
    safety_checker: Path | None
    licence: Path | None
    overwrite: bool


def export_command(console: Console, source: Path, output: Path, vaes: list[str], options: ExportOptions) -> None:
    """Check the words, export, and print the bundle's place and hash."""
    named = dict(map(_named_path, vaes))
    if len(named) != len(vaes):
        raise InputError("--vae gives one name twice; each decoder needs a name of its own")
    sizes = tuple(map(parse_size, options.golden_sizes))
    with _loading(console):
        from latentrt.export.export import export_bundle
        from latentrt.export.golden import Further
    with _progress(console, source.name) as report:
        manifest = export_bundle(
            source,
            output,
            vaes=named,
            weights=options.weights,
            variant=options.variant,
            prediction=options.prediction,
            precision=options.precision,
            further=Further(sizes, options.golden_rows),
            safety_checker=options.safety_checker,
            licence=options.licence,
            report=report,
            overwrite=options.overwrite,
        )
    for note in missing_protection(manifest):
        console.print(f"note: {note}", markup=False)
    _finish(console, output, manifest)


def add_decoder_command(console: Console, bundle: Path, word: str) -> None:
    """Check the word, add the decoder, and print the bundle's place and new hash."""
    name, path = _named_path(word)
    with _loading(console):
        from latentrt.export.add_decoder import add_decoder
    with _progress(console, name) as report:
        manifest = add_decoder(bundle, name, path, report=report)
    _finish(console, bundle, manifest, about=f".{name}")


def _finish(console: Console, bundle: Path, manifest: Manifest, about: str = "") -> None:
    from latentrt.export.source import NOTE

    for key, note in manifest.provenance.items():
        if key.startswith(NOTE) and key.endswith(about):
            console.print(f"note: {note}", markup=False)
    print(f"{bundle} {manifest.bundle_hash()}")


@contextlib.contextmanager
def _progress(console: Console, name: str) -> Iterator[Report]:
    """A bar for as long as the block runs; yields what the parts are told to."""
    columns = (TextColumn("exporting {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)

        def report(part: Part) -> None:
            done = part.seconds is not None
            bar.update(task, description=f"{part.part} {part.doing}", completed=part.index + done, total=part.total)
            if part.seconds is not None and part.size is not None:
                rate = part.size / part.seconds / 1e6
                figures = f"{part.seconds:6.1f} s {part.size / 1e6:7.1f} MB {rate:6.1f} MB/s"
                bar.console.print(f"{part.part:24}{figures}  {part.max_abs_error:.1e} from PyTorch", markup=False)

        yield report


def _named_path(word: str) -> tuple[str, Path]:
    name, equals, path = word.partition("=")
    if not (name and equals and path):
        raise InputError(f"a decoder is given as NAME=PATH, such as ft-mse=vae-ft-mse.safetensors; got {word!r}")
    return name, Path(path)


@contextlib.contextmanager
def _loading(console: Console) -> Iterator[None]:
    """Import what exports need; some of the libraries print advice when they are imported."""
    with console.status("loading PyTorch"), contextlib.redirect_stdout(io.StringIO()):
        try:
            yield
        except ImportError as error:
            raise EngineError(f"export needs PyTorch and {error.name}: pip install 'latentrt[export]'") from error
