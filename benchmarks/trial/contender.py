"""A contestant as a trial sees it: something that can be made ready, started and asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .results import Environment


class Process(Protocol):
    """A contestant's process; `contestants/remote.py` has the real one."""

    @property
    def pid(self) -> int:
        """Of the process."""

    @property
    def started(self) -> float:
        """`time.perf_counter()` when it was started."""

    @property
    def ended(self) -> bool:
        """Whether it is no more."""

    def ask(self, within: float, **order: Any) -> Any:
        """The answer to an order; raises Refused."""

    def close(self, grace: float = ...) -> None:
        """Let it end within so many seconds, then end it; closing twice is allowed."""


@dataclass(frozen=True)
class Equipped:
    """A contestant whose environment and model are there.

    Attributes:
        start: a process of it, that writes what it prints to a file.
        model: what the order `open` gets.
    """

    environment: Environment
    start: Callable[[Path], Process]
    model: Path
    options: dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """One that takes part.

    Attributes:
        equip: makes it ready, telling what it does meanwhile; raises Refused with the reason why it cannot.
    """

    name: str
    title: str
    equip: Callable[[Callable[[str], None]], Equipped]

    @property
    def file_name(self) -> str:
        """Its name where a colon may not stand."""
        return self.name.replace(":", "-")
