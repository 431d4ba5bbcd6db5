"""A call that never returns, told from one that is slow."""

from __future__ import annotations

PAUSE = 1.0  # seconds between two looks, at most


class StallWatch:
    """Is asked every `pause` seconds, and finds a turn stalled that was under way at every look for `limit` seconds.

    Looks are counted and not the clock's seconds: a process that was stopped itself meanwhile finds nothing stalled.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.pause = limit, min(PAUSE, limit / 4)
        self._turn: float | None = None
        self._looks = 0

    def stalled(self, busy_since: float | None) -> bool:
        """Look once; `busy_since` is when the turn under way began, None where there is none."""
        self._looks = self._looks + 1 if busy_since is not None and busy_since == self._turn else 0
        self._turn = busy_since
        return self._looks * self.pause >= self.limit
