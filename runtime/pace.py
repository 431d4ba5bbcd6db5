"""How many pictures are decoded at once, so that no step waits for longer than a step takes."""

from __future__ import annotations

from collections.abc import Hashable

_WEIGHT = 0.2  # of the newest figure in a moving average: some ten turns are remembered


class Pace:
    """Moving averages of seconds: of a step, and of a decoded picture of each kind (decoder and size)."""

    def __init__(self) -> None:
        self._step: float | None = None
        self._picture: dict[Hashable, float] = {}

    def stepped(self, seconds: float) -> None:
        """Note what a step took."""
        self._step = _moved(self._step, seconds)

    def decoded(self, kind: Hashable, pictures: int, seconds: float) -> None:
        """Note what some pictures took together."""
        self._picture[kind] = _moved(self._picture.get(kind), seconds / pictures)

    def pictures(self, kind: Hashable) -> int:
        """As many as take no longer than a step of late; at least one, and one while nobody knows."""
        picture = self._picture.get(kind)
        if not picture or self._step is None:
            return 1
        return max(1, int(self._step / picture))


def _moved(average: float | None, seconds: float) -> float:
    return seconds if average is None else average + _WEIGHT * (seconds - average)
