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
from .profile import ROWS, Profile, holds_but_rows
from .size import pixels_per_unit
from .tensor import Feeds, check_feeds, free_names

Outputs = dict[str, NDArray[Any]]


class ProfiledEngine(Engine):
    """One component, compiled for one or several profiles.

    A call of fewer rows than its profile repeats a real row, so that no made-up number (and no NaN) passes through the
    network; one of more rows than the largest profile becomes several calls.
    """

    def __init__(self, bundle: Bundle, name: str, key: EngineKey, profiles: Sequence[Profile]) -> None:
        component = bundle.component(name)
        super().__init__(name, component, key)
        self.profiles = tuple(profiles)
        sides = free_names(component.inputs) & {"width", "height"}
        self._pixels = {axis: pixels_per_unit(bundle, name, axis) for axis in sides}

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
        asked = {name: length for name, length in bound.items() if name != ROWS}
        nearest = min(self.profiles, key=lambda profile: _distance(profile, asked))
        wanted = " ".join(f"{name}={length}" for name, length in sorted(asked.items()))
        return (
            f"the {self.key.backend} engine of {self.name} holds no profile for {wanted}; the nearest is {nearest}: "
            f"build one with 'latentrt build BUNDLE --engine {self.key.backend}{self._words(asked)}'"
        )

    def _words(self, asked: dict[str, int]) -> str:
        """The options of `latentrt build` that give a profile for free dimensions of these lengths."""
        sides = [str(asked[axis] * self._pixels[axis]) for axis in ("width", "height") if axis in asked]
        tokens = f" --tokens {asked['tokens']}" if "tokens" in asked else ""
        return (f" --size {'x'.join(sides)}" if sides else "") + tokens


def _distance(profile: Profile, asked: dict[str, int]) -> float:
    """How far the usual shape of a profile is from what is asked for, in relative lengths."""
    return sum(abs(profile.dimensions[name].usual - length) / length for name, length in asked.items())


def _joined(parts: Iterable[Outputs]) -> Outputs:
    first, *others = parts
    return {name: np.concatenate([array, *(other[name] for other in others)]) for name, array in first.items()}
