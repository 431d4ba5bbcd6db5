"""A table of a report, as text in cells, and the order that contestants have in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..trial.results import Contestant, Results
from .words import Unit, time_unit


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first cell of a row says what the row is about."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    numeric: bool = True  # all but the first column


def ordered(results: Results) -> Iterator[tuple[str, Contestant]]:
    """The contestants in the order in which they took turns; those that the settings do not name come last."""
    names = [name for name in results.settings.contestants if name in results.contestants]
    for name in [*names, *(name for name in results.contestants if name not in names)]:
        yield name, results.contestants[name]


def in_order(names: Iterable[str]) -> list[str]:
    """Each name once, as they come."""
    return list(dict.fromkeys(names))


def picture_unit(results: Results) -> Unit:
    """The unit of a picture's latency, the same wherever it stands."""
    return time_unit(timing.p50 for one in results.contestants.values() for timing in one.latency.values())
