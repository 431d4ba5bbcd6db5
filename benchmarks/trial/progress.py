"""What somebody who waits for a trial is told."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Hears of a trial on its way."""

    def expect(self, tasks: int) -> None:
        """So many things are left to measure."""

    def doing(self, words: str) -> None:
        """What is measured now, and of whom."""

    def done(self, tasks: int = 1) -> None:
        """So many of them were, or will not be."""

    def say(self, line: str) -> None:
        """Something that stays to be read, such as why a contestant failed."""


class Silent:
    """Nobody waits."""

    def expect(self, tasks: int) -> None:
        """Nothing."""

    def doing(self, words: str) -> None:
        """Nothing."""

    def done(self, tasks: int = 1) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""
