"""What the engines of one pipeline share because they run in turn: memory for what a call computes on its way, say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

_T = TypeVar("_T")


class Scratch:
    """Belongs to whoever opens engines, in whichever thread; what lies in it is each backend's own business."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Hashable, Any] = {}

    def get(self, name: Hashable, make: Callable[[], _T]) -> _T:
        """What lies here under `name`; made when it is first asked for."""
        with self._lock:
            if name not in self._made:
                self._made[name] = make()
            found: _T = self._made[name]
            return found
