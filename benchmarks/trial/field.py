"""Who takes part: names from the command line, as contestants that a trial can make ready."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentrt.benchmarks.contestants import environments, models, registry
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import InputError

from .contender import Contender, Equipped, Process


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things are found and made.

    Attributes:
        bundle: latentrt's contestants open it.
        source: the checkpoint that it was exported from, which the others run.
        cache: of environments and converted models.
        given: Python interpreters to use in place of made environments, by contestant.
        threads: that every contestant is kept to.
        within: seconds that a conversion may take.
    """

    bundle: Path
    source: Path | None
    cache: Path
    given: Mapping[str, Path]
    threads: int | None = None
    within: float = 3600.0


def names(engines: Sequence[str], precision: str | None, against: Sequence[str]) -> tuple[str, ...]:
    """The contestants' names: latentrt with each engine library, then its peers.

    Raises:
        InputError: a name is unknown, or given twice.
    """
    ours = [_ours(engine, precision) for engine in engines] or [_ours(None, precision)]
    found = (*ours, *against)
    for name in found:
        registry.contestant(name)
        if found.count(name) > 1:
            raise InputError(f"{name} is named twice; name each contestant once")
    return found


def _ours(engine: str | None, precision: str | None) -> str:
    if engine is None:
        if precision is not None:
            raise InputError(f"--precision {precision} is of an engine library: name it with --engine")
        return registry.LATENTRT
    return f"{registry.LATENTRT}:{engine}" + (f"-{precision}" if precision is not None else "")


def field(contestants: Sequence[str], places: Places) -> list[Contender]:
    """Those contestants, ready to be made ready.

    Raises:
        InputError: a peer is among them and no checkpoint was given, or an interpreter is given for none of them.
    """
    entries = [registry.contestant(name) for name in contestants]
    if places.source is None and (needing := [entry.name for entry in entries if entry.needs_source]):
        raise InputError(f"{needing[0]} runs the checkpoint that the bundle was exported from: give it with --source")
    if unused := sorted(places.given.keys() - set(contestants)):
        raise InputError(f"--environment {unused[0]}=...: {unused[0]} takes no part; name it with --against")
    return [Contender(entry.name, entry.title, _equip(entry, places)) for entry in entries]


def _equip(entry: registry.Entry, places: Places) -> Callable[[Callable[[str], None]], Equipped]:
    def equip(report: Callable[[str], None]) -> Equipped:
        report("making its environment")
        python, environment = environments.environment(entry, places.cache, places.given.get(entry.name), report)
        report("converting the model")
        model = models.model_for(entry, python, places.bundle, places.source, places.cache, places.within, report)

        def start(log: Path) -> Process:
            return environments.start(entry, python, log, places.threads)

        return Equipped(environment, start, model, entry.options)

    return equip


def parse_environments(words: Sequence[str]) -> dict[str, Path]:
    """`["torch=/usr/bin/python3"]` -> `{"torch": Path("/usr/bin/python3")}`.

    Raises:
        InputError: not of this form, or no program is there.
    """
    found = {}
    for word in words:
        name, equals, python = word.partition("=")
        if not (name and equals and python):
            raise InputError(f"--environment is NAME=PYTHON, such as torch=/usr/bin/python3; got {word!r}")
        if not (Path(python).is_file() and os.access(python, os.X_OK)):
            raise InputError(f"--environment {word}: {python} is no program; name a Python interpreter")
        found[name] = Path(python)
    return found


def source_hash(source: Path, bundle: Bundle) -> str:
    """As `models.source_hash`, with the words of the command line.

    Raises:
        InputError: it is not there, or lacks a file that the bundle was exported from.
    """
    try:
        return models.source_hash(bundle, source)
    except IsADirectoryError as error:
        raise InputError(
            f"--source {source} is a folder, and the bundle was exported from a single file: give that"
        ) from error
    except OSError as error:
        raise InputError(f"--source {source}: cannot read {error.filename}: {error.strerror}") from error
