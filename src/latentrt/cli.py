"""The `latentrt` command; `commands/making.py`, `using.py`, `measuring.py` and `serving.py` have each one's words."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from . import __version__
from .commands import making, measuring, serving, using
from .commands.guard import guarded, show_warning

app = typer.Typer(
    name="latentrt",
    help="Stable Diffusion 1.5 as verified engines: export once, build anywhere, run without PyTorch.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line: one line for each error, and its exit code; never a traceback for bad input."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no valid text
    warnings.showwarning = show_warning  # type: ignore[assignment] # the other arguments are not used
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code: 0, 1 for a failed check, 2 for any other error."""
    return guarded(lambda: app(arguments, standalone_mode=False))


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(f"latentrt {__version__}" if version else context.get_help())
        raise typer.Exit


COMMANDS: tuple[Callable[..., None], ...] = (
    making.export,
    making.add_decoder,
    making.build,
    making.onnx,
    making.pack,
    using.verify,
    using.generate,
    making.import_embedding,
    using.inspect,
    measuring.bench,
    serving.serve,
    serving.triton,
)
for command in COMMANDS:
    app.command()(command)
