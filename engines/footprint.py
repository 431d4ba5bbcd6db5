"""What an open engine takes: what it holds while it is open, and what a call takes beside that.

The weights' share is a multiple of what the engine has on disk; the calls' follows from the graph (`working_set.py`).
How a library treats both was measured with engines of the demo model, and the UNet and decoder of SD 1.5's true size:
`benchmarks/memory.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .bundle import Bundle
from .choice import Choice
from .errors import EngineError
from .manifest import ITEM_BYTES
from .working_set import WorkingSet, most_bytes, working_sets

MB, MIB = 10**6, 2**20
_MOST_STREAMED = 0.9  # of the weights: what is about to be used has to be there. Not measured: no GPU was at hand


@dataclass(frozen=True, kw_only=True)
class Appetite:
    """How a library treats memory.

    Attributes:
        gpu: whether it is a GPU's memory.
        library: bytes that the library takes once, with its first engine.
        engine: bytes of each engine beside its weights.
        weights: bytes held for a byte of weights in the precision that the engine computes in.
        files: bytes held for a byte of the engine's files, where they are mapped.
        opening: as `weights`, on top of it, while the engine opens from the bundle's graph.
        tensors: bytes taken for a byte of the tensors that live at once.
        scores: bytes taken for a byte of attention scores.
        built_scores: as `scores`, of an engine whose build lets attention work tile by tile; None where it does not.
        doubles: whether memory for calls is taken in regions of 1, 2, 4, ... MiB, and so up to twice what is used.
    """

    gpu: bool = False
    library: int
    engine: int
    weights: float = 1.0
    files: float = 0.0
    opening: float = 0.0
    tensors: float
    scores: float
    built_scores: float | None = None
    doubles: bool = False


_ON_GPU = Appetite(  # not measured: no GPU was at hand
    gpu=True, library=600 * MB, engine=50 * MB, weights=1.1, opening=1.0, tensors=1.5, scores=1.0
)
APPETITES = {
    "onnxruntime": Appetite(
        library=40 * MB,
        engine=30 * MB,
        weights=1.06,
        opening=0.1,
        tensors=1.5,
        scores=1.1,
        built_scores=0.06,
        doubles=True,
    ),
    "openvino": Appetite(library=70 * MB, engine=16 * MB, files=1.0, opening=1.0, tensors=2.2, scores=0.35),
    "onnxruntime-cuda": _ON_GPU,
    "tensorrt": _ON_GPU,
    "tensorrt-rtx": _ON_GPU,
    "fake": Appetite(library=0, engine=0, weights=0.0, tensors=0.0, scores=0.0),
}


@dataclass(frozen=True)
class Footprint:
    """What an engine takes.

    Attributes:
        held: bytes while it is open.
        opening: bytes on top of that for as long as opening lasts.
        appetite: of its library.
        sets: what lives at once in a call.
        item: bytes of an element for one of the graph's.
        weights: bytes of `held` that are weights.
        streams: whether weights may wait in the host's memory, and come to the GPU when a call needs them.
    """

    held: int
    opening: int
    appetite: Appetite
    sets: tuple[WorkingSet, ...]
    item: float
    weights: int = 0
    streams: bool = False

    @property
    def streamable(self) -> int:
        """Bytes of `held` that may wait in the host's memory."""
        return int(self.weights * _MOST_STREAMED) if self.streams else 0

    def working(self, bound: Mapping[str, int]) -> int:
        """What a call takes for free dimensions of these lengths; it stays taken until the engine is closed."""
        appetite = self.appetite
        used = most_bytes(self.sets, bound, self.item * appetite.tensors, self.item * appetite.scores)
        return _doubled(used) + used // 10 if appetite.doubles else used  # and what lies outside of the regions


def appetite(backend: str) -> Appetite:
    """How the library of a backend treats memory.

    Raises:
        EngineError: nobody knows.
    """
    if backend not in APPETITES:
        raise EngineError(f"no memory can be planned for the {backend} engine: leave out --memory")
    return APPETITES[backend]


def footprint(choice: Choice) -> Footprint:
    """The footprint of an engine that is not open yet.

    Raises:
        EngineError: nobody knows how its library treats memory; or it was packed, by a version that did not record it.
    """
    takes = appetite(choice.backend.name)
    precision = choice.key.precision
    stored = choice.bundle.component(choice.component).precision
    item = ITEM_BYTES[precision] / ITEM_BYTES[stored]
    files = sum(file.size for file in choice.record.files.values()) if choice.record is not None else 0
    weights = weight_bytes(choice.bundle, choice.component) * item if files == 0 else files
    if takes.built_scores is not None and files:
        takes = replace(takes, scores=takes.built_scores)
    if takes.files and files:  # its files hold fp32, whatever it computes in
        weights = files * ITEM_BYTES[precision] / ITEM_BYTES["fp32"]
    held = takes.engine + takes.weights * weights + takes.files * (files or weights)
    opening = 0 if files else takes.opening * weights
    streams = choice.record is not None and choice.record.options.weight_streaming
    return Footprint(int(held), int(opening), takes, _sets(choice), item, int(takes.weights * weights), streams)


def weight_bytes(bundle: Bundle, component: str) -> int:
    """The bytes of a component's graph and weights in the bundle."""
    stated = bundle.component(component)
    paths = [path for path in (stated.graph, *stated.weights) if path is not None]
    return sum(bundle.manifest.files[path].size for path in paths)


def _sets(choice: Choice) -> tuple[WorkingSet, ...]:
    if choice.record is not None and choice.record.working_sets:
        return choice.record.working_sets
    if choice.bundle.component(choice.component).packed is not None:
        raise EngineError(
            f"the engine {choice.key.id} of {choice.component} does not say what memory a call takes: build and pack "
            "it again, or leave out --memory"
        )
    return component_sets(choice.bundle, choice.component)


def component_sets(bundle: Bundle, component: str) -> tuple[WorkingSet, ...]:
    """The working sets of a component's graph, which is checked; its weights are not.

    Raises:
        EngineError: the graph does not state the shape of a tensor, or was left out of a packed bundle.
    """
    stated = bundle.component(component)
    if stated.graph is None:
        raise EngineError(f"{bundle.root} was packed without the graph of {component}")
    return working_sets(bundle.file(stated.graph).read_bytes(), stated.graph)


def _doubled(used: int) -> int:
    """The regions of 1, 2, 4, ... MiB that hold it: 2**n - 1 MiB."""
    regions = MIB
    while regions - MIB < used:
        regions *= 2
    return regions - MIB
