"""The engines of one pipeline: opened when they are first asked for, and closed together; in turn under a budget."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.bundle import Bundle
from latentrt.engines.calls import call_shapes
from latentrt.engines.choice import Wanted
from latentrt.engines.engine import Engine
from latentrt.engines.engine_set import open_engine
from latentrt.engines.errors import EngineError, InputError
from latentrt.engines.key import EngineKey
from latentrt.engines.manifest import MAX_TOKENS, SAFETY_CHECKER, TEXT_ENCODER, UNET, decoder_component
from latentrt.engines.size import Size
from latentrt.engines.tensor import Feeds, blank_feeds

from .request import Plan, Request
from .residency import Residency
from .tiling import AT_ONCE, decode


class OpenEngines:
    """Engines by component. A context manager; one thread owns it.

    With `residency` an engine opens when it first runs, and may be closed and opened again between its calls.
    """

    def __init__(
        self, bundle: Bundle, wanted: Wanted, tile: int | None = None, residency: Residency | None = None
    ) -> None:
        self._bundle = bundle
        self.wanted = wanted
        self._tile = tile  # latents on a side that a decoder gets at most
        self.residency = residency
        self._engines: dict[str, Engine] = {}
        self._closed = False

    def __getitem__(self, component: str) -> Engine:
        """The engine of a component.

        Raises:
            EngineError: it cannot be opened, or the pipeline is closed.
        """
        if self._closed:
            raise EngineError("the pipeline is closed: open it again")
        if component not in self._engines:
            found = None if self.residency is None else self.residency.engines(component)
            self._engines[component] = found or open_engine(self._bundle, component, self.wanted)
        return self._engines[component]

    def tile(self, decoder: str, size: Size) -> int | None:
        """The side in latents of the tiles that a picture of `size` is decoded in; None where it is decoded whole."""
        tile = self._tile if self.residency is None else self.residency.tile(decoder, size)
        whole = max(size) // self._bundle.manifest.model.vae_scale_factor
        return tile if tile is not None and whole > tile else None

    def decode(self, decoder: str, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Latents (n, 4, h, w) to pictures (n, 3, 8h, 8w), float32, in tiles where they are larger than one.

        Small ones share calls; not under a memory budget, which counts a call of one.
        """
        model = self._bundle.manifest.model
        height, width = (model.vae_scale_factor * side for side in latents.shape[2:])
        at_once = AT_ONCE if self.residency is None else 1
        scaled = latents / np.float32(model.scaling_factor)
        return decode(self[decoder], scaled, self.tile(decoder, (width, height)), at_once)

    def check_start(self, request: Request, planned: Plan) -> None:
        """Check that memory allows a picture, and that its decoder takes the size, before anything is run.

        Raises:
            InputError: one of them does not hold.
            EngineError: the decoder cannot be opened.
        """
        if self.residency is not None:
            self.residency.plan(request, planned)
        self.check_held(decoder_component(planned.decoder), planned)

    def check_held(self, component: str, planned: Plan, tokens: int = MAX_TOKENS) -> None:
        """Check that a component's engine takes the calls of a picture, before any is made.

        Raises:
            InputError: it was built for other sizes; it says what a call would.
        """
        if reason := self[component].unheld(self._call(component, planned, tokens)):
            raise InputError(reason)

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

    def facts(self, planned: Plan, tokens: int, *, checked: bool) -> dict[str, str]:
        """What a picture's text says of the engines that drew it: their keys, and the side of its tiles."""
        decoder = decoder_component(planned.decoder)
        used = [UNET, TEXT_ENCODER, decoder, *([SAFETY_CHECKER] if checked else [])]
        keys = " ".join(f"{component}={self.key(component, planned, tokens).id}" for component in used)
        tile = self.tile(decoder, (planned.width, planned.height))
        return {"engine": f"{self.wanted.engine} {keys}"} | ({} if tile is None else {"tile": str(tile)})

    def _call(self, component: str, planned: Plan, tokens: int) -> Feeds:
        """The shapes of a component's calls for a picture, as feeds of zeros."""
        size = (planned.width, planned.height)
        tile = self.tile(component, size) if component == decoder_component(planned.decoder) else None
        bound = call_shapes(self._bundle, component, size, tokens, tile)
        return blank_feeds(self._bundle.component(component).inputs, bound)

    def close(self) -> None:
        """Close all, though one should fail; closing twice is allowed."""
        self._closed = True
        with ExitStack() as closing:
            for engine in self._engines.values():
                closing.callback(engine.close)
            self._engines.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
