"""An engine with no library: closed-form answers of the declared shapes, for tests and for timing the loop alone.

Rows are independent, so whatever the loop does with them must not change a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .backend import Report, no_report
from .bundle import Bundle
from .engine import Engine
from .errors import EngineError
from .key import EngineKey, component_key
from .manifest import SAFETY_CHECKER, TEXT_ENCODER, TIMESTEP_COND, UNET, Component, Precision, is_encoder
from .options import DEFAULTS, BuildOptions
from .tensor import Feeds, check_feeds, resolve_shape


class FakeEngine(Engine):
    """Answers at once. `calls` counts them, `rows` keeps the row count of each."""

    def __init__(self, name: str, component: Component, key: EngineKey) -> None:
        super().__init__(name, component, key)
        self.rows: list[int] = []

    @property
    def calls(self) -> int:
        """How often the engine has run."""
        return len(self.rows)

    def _run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        bound = check_feeds(self.name, self.inputs, feeds)
        self.rows.append(bound["rows"])
        shapes = {spec.name: resolve_shape(spec.shape, bound) for spec in self.outputs}
        answer = _encode if is_encoder(self.name) else _ANSWERS.get(self.name, _decode)
        return answer(feeds, shapes)


def _embed(feeds: Feeds, shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Bounded functions of each vector alone: (rows, 77, width), and for each layer (rows, layers, 77, width)."""
    x = feeds["inputs_embeds"]
    return {
        name: np.tanh(x) if len(shape) == x.ndim else np.stack([np.tanh(x * (i + 2)) for i in range(shape[1])], axis=1)
        for name, shape in shapes.items()
    }


def _predict(feeds: Feeds, shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """A bounded function of latent, time and text: (rows, 4, h, w)."""
    [name] = shapes
    x, t = feeds["sample"], feeds["timestep"][:, None, None, None]
    text = feeds["encoder_hidden_states"].mean(axis=(1, 2))[:, None, None, None]
    told = feeds[TIMESTEP_COND].mean(axis=1)[:, None, None, None] if TIMESTEP_COND in feeds else np.float32(0)
    return {name: np.tanh(x * np.float32(0.9) + text + told + t * np.float32(1e-4))}


def _encode(feeds: Feeds, shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    picture = feeds["sample"].mean(axis=1, keepdims=True)[:, :, ::8, ::8]
    return {
        name: np.broadcast_to(picture * np.float32(1.0 + i), shape).copy()
        for i, (name, shape) in enumerate(shapes.items())
    }


def _decode(feeds: Feeds, shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Three latent channels, each pixel repeated: (rows, 3, 8h, 8w)."""
    [(name, shape)] = shapes.items()
    z = np.tanh(feeds["latent_sample"][:, :3])
    factor = shape[-1] // z.shape[-1]
    return {name: z.repeat(factor, axis=2).repeat(factor, axis=3)}


def _look(feeds: Feeds, shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """A picture becomes a wave of its brightness: (rows, width)."""
    [(name, shape)] = shapes.items()
    phase = np.arange(shape[-1], dtype=np.float32) * np.float32(0.37)
    return {name: np.sin(feeds["pixel_values"].mean(axis=(1, 2, 3))[:, None] + phase)}


_ANSWERS = {TEXT_ENCODER: _embed, UNET: _predict, SAFETY_CHECKER: _look}


@dataclass(frozen=True)
class FakeBackend:
    """Opens every component; has nothing to build."""

    options: BuildOptions = DEFAULTS
    device: int = 0
    name: ClassVar[str] = "fake"
    takes: ClassVar[frozenset[str]] = frozenset()
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32",)

    def key(self, bundle: Bundle, component: str) -> EngineKey:
        return component_key(
            bundle, component, backend=self.name, version="1", device="any", precision="fp32", profile="any"
        )

    def obstacle(self) -> str | None:
        return None

    def build(self, bundle: Bundle, component: str, folder: Path, report: Report = no_report) -> None:  # noqa: ARG002
        raise EngineError(f"the fake engine of {component} is not compiled: nothing to build in {folder}")

    def open(self, bundle: Bundle, component: str, folder: Path | None) -> Engine:  # noqa: ARG002
        if len(bundle.component(component).outputs) > (2 if is_encoder(component) or component == TEXT_ENCODER else 1):
            raise EngineError(f"the fake engine of {component} has no graph: there is no tensor inside it to look at")
        return FakeEngine(component, bundle.component(component), self.key(bundle, component))


BACKEND = FakeBackend()
