"""An engine compiled for certain shapes: rows are filled up to a profile, or split over several calls."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .engine import Engine
from .errors import InputError
from .key import EngineKey
from .no_profile import no_profile
from .profile import ROWS, Profile, holds_but_rows
from .tensor import Feeds, check_feeds

Outputs = dict[str, NDArray[Any]]


class ProfiledEngine(Engine):
    """One component, compiled for one or several profiles.

    A call of fewer rows than its profile repeats a real row, so that no made-up number (and no NaN) passes through the
    network; one of more rows than the largest profile becomes several calls.
    """

    def __init__(self, bundle: Bundle, name: str, key: EngineKey, profiles: Sequence[Profile]) -> None:
        super().__init__(name, bundle.component(name), key)
        self.profiles = tuple(profiles)
        self._bundle = bundle

    def unheld(self, feeds: Feeds) -> str | None:
        """As `Engine.unheld`: names the nearest profile, and the build that gives the right one."""
        bound = check_feeds(self.name, self.inputs, feeds)
        return None if self._fitting(bound) else self._no_profile(bound)

    def takes(self, feeds: Feeds) -> bool:
        """As `Engine.takes`: whether some profile holds the call, whatever its rows."""
        return bool(self._fitting(check_feeds(self.name, self.inputs, feeds)))

    def _run(self, feeds: Feeds) -> Outputs:
        bound = check_feeds(self.name, self.inputs, feeds)
        fitting = self._fitting(bound)
        if not fitting:
            raise InputError(self._no_profile(bound))
        most = self.profiles[fitting[-1]].dimensions[ROWS].most
        rows = bound[ROWS]
        parts = []
        for start in range(0, rows, most):
            part = {name: array[start : start + most] for name, array in feeds.items()}
            parts.append(self._run_part(fitting, part, min(most, rows - start)))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _fitting(self, bound: dict[str, int]) -> list[int]:
        """The profiles that hold a call but for its rows, that of the fewest first."""
        fitting = (i for i, profile in enumerate(self.profiles) if holds_but_rows(profile, bound))
        return sorted(fitting, key=lambda i: self.profiles[i].dimensions[ROWS].most)

    def _run_part(self, fitting: Sequence[int], feeds: Feeds, rows: int) -> Outputs:
        index = next(i for i in fitting if rows <= self.profiles[i].dimensions[ROWS].most)
        missing = max(0, self.profiles[index].dimensions[ROWS].least - rows)
        if not missing:
            return self._run_profile(index, feeds)
        filled = {name: np.concatenate([array, *[array[-1:]] * missing]) for name, array in feeds.items()}
        return {name: array[:rows] for name, array in self._run_profile(index, filled).items()}

    @abstractmethod
    def _run_profile(self, index: int, feeds: Feeds) -> Outputs:
        """Run feeds that `profiles[index]` holds."""

    def _no_profile(self, bound: dict[str, int]) -> str:
        return no_profile(self._bundle, [self.key], self.profiles, bound)


def _joined(parts: Iterable[Outputs]) -> Outputs:
    first, *others = parts
    return {name: np.concatenate([array, *(other[name] for other in others)]) for name, array in first.items()}
