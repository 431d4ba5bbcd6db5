"""The engines that may serve one component: each is opened when a call first needs it, and may be closed in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from numpy.typing import NDArray

from .bundle import Bundle
from .choice import Choice, Wanted, choices
from .engine import Engine
from .errors import EngineError, InputError
from .key import EngineKey
from .no_profile import no_profile
from .profile import holds_but_rows
from .tensor import Feeds, check_feeds

# told of a call before it runs: its engine, its free dimensions; says how many bytes of weights may be on the GPU
Admit = Callable[[Choice, Mapping[str, int]], int | None]


def admit_all(choice: Choice, bound: Mapping[str, int]) -> None:
    """Let every engine stay, with all its weights."""


class EngineSet(Engine):
    """The engines among `choices`, the best first; a call is run by the first that holds its shapes.

    The first that holds its rows too, where there is one: the others fill a call up, or split it.

    An engine is judged by the options it was built with, so nothing is opened to ask. Whoever has to make room for a
    call does so in `admit`, by `release` of this set or of others.
    """

    def __init__(self, choices: Sequence[Choice], admit: Admit = admit_all) -> None:
        first = choices[0]
        super().__init__(first.component, first.bundle.component(first.component), first.key)
        self.choices = tuple(choices)
        self._admit = admit
        self._open: dict[str, Engine] = {}

    def takes(self, feeds: Feeds) -> bool:
        """As `Engine.takes`."""
        return self.serving(feeds) is not None

    def key_for(self, feeds: Feeds) -> EngineKey:
        """The key of the engine that runs such a call."""
        serving = self.serving(feeds)
        return self.key if serving is None else serving.key

    def unheld(self, feeds: Feeds) -> str | None:
        """As `Engine.unheld`."""
        bound = self._bound(feeds)
        return self._no_engine(bound) if self.serving_shapes(bound) is None else None

    def serving(self, feeds: Feeds) -> Choice | None:
        """The engine that runs such a call, open or not."""
        return self.serving_shapes(self._bound(feeds))

    def serving_shapes(self, bound: Mapping[str, int]) -> Choice | None:
        """The engine that runs a call of these free dimensions, open or not."""
        exact = (choice for choice in self.choices if _holds(choice, bound, rows_too=True))
        return next(exact, None) or next((choice for choice in self.choices if _holds(choice, bound)), None)

    def release(self, key: EngineKey) -> None:
        """Close one engine; a later call opens it again."""
        engine = self._open.pop(key.id, None)
        if engine is not None:
            engine.close()

    def _run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        bound = self._bound(feeds)
        serving = self.serving_shapes(bound)
        if serving is None:
            raise InputError(self._no_engine(bound))
        resident = self._admit(serving, bound)
        if serving.key.id not in self._open:
            self._open[serving.key.id] = serving.open(resident)
        return self._open[serving.key.id].run(feeds)

    def close(self) -> None:
        """Close those that are open, all of them though one should fail."""
        super().close()
        with ExitStack() as closing:
            for engine in self._open.values():
                closing.callback(engine.close)
            self._open.clear()

    def _bound(self, feeds: Feeds) -> dict[str, int]:
        """The free dimensions of a call, which fits the component's inputs."""
        if self._closed:
            raise EngineError(f"the {self.name} engine is closed: open the pipeline again")
        return check_feeds(self.name, self.inputs, feeds)

    def _no_engine(self, bound: dict[str, int]) -> str:
        profiles = [profile for choice in self.choices for profile in choice.profiles or ()]
        return no_profile(self.choices[0].bundle, [choice.key for choice in self.choices], profiles, bound)


def _holds(choice: Choice, bound: Mapping[str, int], *, rows_too: bool = False) -> bool:
    """Whether an engine runs a call; `rows_too` without filling it up or splitting it."""
    if choice.profiles is None:
        return True
    return any(profile.holds(bound) if rows_too else holds_but_rows(profile, bound) for profile in choice.profiles)


def open_engine(bundle: Bundle, component: str, wanted: Wanted) -> Engine:
    """Open what serves a component: one engine, or a set of them where several fit.

    Raises:
        InputError: no backend of this name, or it does not compute in this precision.
        EngineError: as `choices`; or an engine is damaged, or cannot be opened.
    """
    found = choices(bundle, component, wanted)
    return found[0].open() if len(found) == 1 else EngineSet(found)
