"""What stands around every command: one line for each error, an exit code, and the console that they are printed on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from latentrt.engines.errors import EngineError, LatentrtError

from .interrupt import watch_interrupt
from .printing import one_line

INTERRUPTED = 2  # as for any run that a user's action kept from finishing
_TYPER_INTERRUPTED = 130  # what typer makes of Ctrl-C

console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def guarded(action: Callable[[], object]) -> int:
    """Do `action`; returns its exit code, or prints the one line of its error."""
    with watch_interrupt() as interrupt:
        try:
            code = action()
            sys.stdout.flush()
        except (KeyboardInterrupt, typer.Abort):
            code = _TYPER_INTERRUPTED
        except Exception as error:
            if not interrupt.pressed:
                return _fail_with(error)
            code = _TYPER_INTERRUPTED
    if code == _TYPER_INTERRUPTED:
        return _fail("interrupted; nothing half written was left", INTERRUPTED)
    return code if isinstance(code, int) else 0


@contextmanager
def needing_extra(command: str) -> Iterator[None]:
    """Around a command's imports: a package of the extra of its name that is missing is named with the remedy.

    Raises:
        EngineError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise EngineError(f"{command} needs {error.name}: pip install 'latentrt[{command}]'") from error


def _fail_with(error: Exception) -> int:
    """Print the one line of an error that is the user's to mend; raise any other, which is a defect."""
    if isinstance(error, typer.TyperException):
        return _fail(error.format_message(), LatentrtError.exit_code)
    if isinstance(error, LatentrtError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, MemoryError):
        return _fail("out of memory: ask for a smaller size or fewer pictures", LatentrtError.exit_code)
    if isinstance(error, OSError):
        about = f"{error.filename}: " if error.filename is not None else ""
        return _fail(f"{about}{error.strerror or error}", LatentrtError.exit_code)
    raise error


def show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """Print a warning of latentrt's as one line; leave out those of libraries."""
    if category.__module__.startswith("latentrt"):
        console.print(f"warning: {one_line(str(message))}", markup=False)


def _fail(message: str, code: int) -> int:
    console.print(f"error: {one_line(message)}", markup=False)
    return code
