"""Every error that latentrt raises on purpose.

LatentrtError
├── InputError          an argument is out of range, of the wrong kind, or names nothing
├── CheckpointError     the model that `export` was given cannot be used
├── BundleError         a bundle is missing, damaged, incomplete, or of another format version
├── EngineError         an engine cannot be built, opened or run here
│   └── NanPictureError what was drawn holds NaN or infinity: there is no picture
├── OutputError         a result cannot be written
└── CheckFailedError    everything ran, and a number is beyond its threshold (exit code 1; others 2, one of a server 75)

A message is one line that names the thing, what was expected, what was found, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LatentrtError(Exception):
    """Base of all errors with a message meant for the user; `exit_code` is what the command line returns."""

    exit_code = 2


class InputError(LatentrtError, ValueError):
    """An argument is out of range, of the wrong kind, or names nothing that exists."""


class CheckpointError(LatentrtError):
    """A checkpoint cannot be read, is not Stable Diffusion 1.x, or lacks weights."""


class BundleError(LatentrtError):
    """A bundle is missing, damaged, incomplete, or of a format this version does not read."""


class EngineError(LatentrtError):
    """An engine cannot be built, opened or run on this machine."""


class NanPictureError(EngineError):
    """What was drawn holds NaN or infinity. A picture that the safety checker replaced is black, and no error."""


class OutputError(LatentrtError):
    """A result cannot be written; nothing half written is left behind."""


class CheckFailedError(LatentrtError):
    """Everything ran, and a measured difference is beyond its named threshold."""

    exit_code = 1


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is none of `known`: it offers the nearest one and lists them all."""
    options = list(known)
    nearest = difflib.get_close_matches(name, options, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return InputError(f"unknown {kind} {name!r}: {hint}known: {', '.join(options) or 'none'}")


def first_line(error: Exception) -> str:
    """What a library says went wrong, without what it says after that."""
    return str(error).strip().split("\n", 1)[0]
