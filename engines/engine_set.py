"""Several engines of one component, built for other sizes: each is opened when a call first needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from .bundle import Bundle
from .choice import Choice, Wanted, choices
from .engine import Engine
from .errors import EngineError, InputError
from .key import EngineKey
from .profile import holds_but_rows
from .tensor import Feeds, check_feeds


class EngineSet(Engine):
    """The engines among `choices`, the best first; a call is run by the first that holds its shapes.

    Before it is opened, an engine is judged by the options it was built with; then by itself.
    """

    def __init__(self, choices: Sequence[Choice]) -> None:
        first = choices[0]
        super().__init__(first.component, first.bundle.component(first.component), first.key)
        self._choices = tuple(choices)
        self._open: dict[str, Engine] = {}

    def takes(self, feeds: Feeds) -> bool:
        """As `Engine.takes`; may open an engine to ask it."""
        return self._serving(feeds) is not None

    def key_for(self, feeds: Feeds) -> EngineKey:
        """The key of the engine that runs such a call."""
        serving = self._serving(feeds)
        return self.key if serving is None else serving.key

    def _run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        serving = self._serving(feeds)
        if serving is None:
            raise InputError(self._no_engine(check_feeds(self.name, self.inputs, feeds)))
        return serving.run(feeds)

    def close(self) -> None:
        """Close those that are open."""
        super().close()
        for engine in self._open.values():
            engine.close()
        self._open.clear()

    def _serving(self, feeds: Feeds) -> Engine | None:
        if self._closed:
            raise EngineError(f"the {self.name} engine is closed: open the pipeline again")
        bound = check_feeds(self.name, self.inputs, feeds)
        for choice in self._choices:
            if _may_hold(choice, bound):
                engine = self._engine(choice)
                if engine.takes(feeds):
                    return engine
        return None

    def _engine(self, choice: Choice) -> Engine:
        if choice.key.id not in self._open:
            self._open[choice.key.id] = choice.open()
        return self._open[choice.key.id]

    def _no_engine(self, bound: dict[str, int]) -> str:
        asked = " ".join(f"{name}={length}" for name, length in sorted(bound.items()) if name != "rows")
        held = "; ".join(" or ".join(map(str, choice.profiles or ())) for choice in self._choices)
        backend = self.key.backend
        return (
            f"none of the {len(self._choices)} {backend} engines of {self.name} holds {asked}; they hold {held}: "
            f"build one for it with 'latentrt build BUNDLE --engine {backend} --size WxH'"
        )


def _may_hold(choice: Choice, bound: dict[str, int]) -> bool:
    return choice.profiles is None or any(holds_but_rows(profile, bound) for profile in choice.profiles)


def open_engine(bundle: Bundle, component: str, wanted: Wanted) -> Engine:
    """Open what serves a component: one engine, or a set of them where several fit.

    Raises:
        InputError: no backend of this name, or it does not compute in this precision.
        EngineError: as `choices`; or an engine is damaged, or cannot be opened.
    """
    found = choices(bundle, component, wanted)
    return found[0].open() if len(found) == 1 else EngineSet(found)
