"""One picture through a pipeline, and how much of its time its engines took."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from latentrt.engines.engine import Engine
from latentrt.engines.manifest import TEXT_ENCODER, UNET, decoder_component
from latentrt.engines.tensor import Feeds
from latentrt.runtime.pipeline import Pipeline


@dataclass(frozen=True)
class Drawn:
    """Seconds of a whole picture, of its denoising loop (its UNet calls in it), and of the calls of each engine."""

    whole: float
    loop: float
    engines: dict[str, float]
    calls: dict[str, int]

    @property
    def over_engines(self) -> float:
        """The whole picture over the sum of its engine calls."""
        return self.whole / sum(self.engines.values())

    @property
    def loop_overhead(self) -> float:
        """The share of the loop that is not spent in the UNet."""
        return 1 - self.engines[UNET] / self.loop


class _Clocked:
    """Counts the calls of an engine and their seconds, until it is let go."""

    def __init__(self, engine: Engine) -> None:
        self.seconds, self.calls = 0.0, 0
        self._engine, self._run = engine, engine.run
        setattr(engine, "run", self._counted)  # noqa: B010 - on this object alone, above its class's method

    def _counted(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        started = time.perf_counter()
        outputs = self._run(feeds)
        self.seconds += time.perf_counter() - started
        self.calls += 1
        return outputs

    def let_go(self) -> None:
        """Give the engine its own method back."""
        delattr(self._engine, "run")


def draw(pipeline: Pipeline, prompt: str, **options: Any) -> Drawn:
    """Draw a prompt to the end; `options` are those of `Request`. All engines that it needs are opened first."""
    names = (TEXT_ENCODER, UNET, decoder_component(pipeline.bundle.manifest.default_decoder))
    clocks = {name: _Clocked(pipeline.engines[name]) for name in names}
    try:
        started = time.perf_counter()
        stream = pipeline.stream(prompt, **options)
        encoded = time.perf_counter()
        for _ in stream:
            pass
        denoised = time.perf_counter()
        stream.result()
        whole = time.perf_counter() - started
    finally:
        for clock in clocks.values():
            clock.let_go()
    seconds = {name: clock.seconds for name, clock in clocks.items()}
    return Drawn(whole, denoised - encoded, seconds, {name: clock.calls for name, clock in clocks.items()})
