"""The engines of one pipeline: opened when they are first asked for, and closed together."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from latentrt.engines.bundle import Bundle
from latentrt.engines.choice import Wanted
from latentrt.engines.engine import Engine
from latentrt.engines.engine_set import open_engine
from latentrt.engines.errors import EngineError
from latentrt.engines.key import EngineKey
from latentrt.engines.manifest import TEXT_ENCODER, UNET, decoder_component
from latentrt.engines.size import pixels_per_unit
from latentrt.engines.tensor import Feeds, blank_feeds, free_names

from .request import Plan


class OpenEngines:
    """Engines by component. A context manager; one thread owns it."""

    def __init__(self, bundle: Bundle, wanted: Wanted, tile: int | None = None) -> None:
        self._bundle = bundle
        self._wanted = wanted
        self._tile = tile  # latents on a side that a decoder gets at most
        self._engines: dict[str, Engine] = {}
        self._closed = False

    def __getitem__(self, component: str) -> Engine:
        """The open engine of a component.

        Raises:
            EngineError: it cannot be opened, or the pipeline is closed.
        """
        if self._closed:
            raise EngineError("the pipeline is closed: open it again")
        if component not in self._engines:
            self._engines[component] = open_engine(self._bundle, component, self._wanted)
        return self._engines[component]

    def unheld(self, planned: Plan, tokens: int) -> str | None:
        """Which engine was built for other sizes than a picture's with `tokens` of text; None where all hold it."""
        for component in (TEXT_ENCODER, UNET, decoder_component(planned.decoder)):
            engine = self[component]
            if not engine.takes(self._call(component, planned, tokens)):
                return f"no {engine.key.backend} engine of {component} holds {planned.width}x{planned.height}"
        return None

    def key(self, component: str, planned: Plan, tokens: int) -> EngineKey:
        """The key of the engine that a component runs in for such a picture."""
        return self[component].key_for(self._call(component, planned, tokens))

    def _call(self, component: str, planned: Plan, tokens: int) -> Feeds:
        """The shapes of a component's calls for a picture, as feeds of zeros."""
        inputs = self._bundle.component(component).inputs
        bound = {"rows": 1, "tokens": tokens}
        for axis in free_names(inputs) & {"width", "height"}:
            pixels = getattr(planned, axis)
            if self._tile is not None and component == decoder_component(planned.decoder):
                pixels = min(pixels, self._tile * self._bundle.manifest.model.vae_scale_factor)
            bound[axis] = pixels // pixels_per_unit(self._bundle, component, axis)
        return blank_feeds(inputs, bound)

    def close(self) -> None:
        """Close all; closing twice is allowed."""
        self._closed = True
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
