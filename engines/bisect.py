"""Find where inside a graph an engine leaves the reference: tensors are marked as outputs, and compared.

The engine is built from the marked graph, so any backend can be searched. The reference is onnxruntime with its
optimiser off. Some builds find the node among hundreds: each marks tensors evenly over what may still hold it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .backend import Backend, run_as_written
from .bundle import Bundle, sha256
from .golden import GoldenCase
from .graph import Node, ancestors, read_nodes, with_outputs
from .manifest import Component, FileRecord
from .metrics import Difference, difference
from .tensor import TensorSpec
from .threshold import Threshold, component_threshold, tensor_threshold

MARKS = 32  # tensors of one build: more would cost memory, and keep the engine from fusing what it fuses in use
Arrays = dict[str, NDArray[Any]]


class Departure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first node whose answer is off while all it takes is not."""

    component: str
    case: str
    node: str
    op: str
    tensor: str
    shape: tuple[int, ...]
    difference: Difference
    threshold: Threshold
    builds: int

    def __str__(self) -> str:
        found, shape = self.difference, "x".join(map(str, self.shape))
        error = found.finding or f"relative L2 {found.relative_l2:.2g}, over {self.threshold.value:.2g}"
        return (
            f"{self.component} leaves the reference at node {self.node} ({self.op}), tensor {self.tensor} of {shape}: "
            f"{error}; all that this node takes is within it ({self.case}, {self.builds} builds)"
        )


def bisect(
    backend: Backend,
    bundle: Bundle,
    component: str,
    case: GoldenCase,
    *,
    built: bool,
    report: Callable[[str], None],
) -> Departure | None:
    """The first tensor that departs from the reference by more than `tensor_threshold`, on the inputs of `case`.

    An output departs, too, where it fails the component's own check. `built` says whether the engine under test was
    compiled and stored, or opened from the graph as it is. None where no output departs once tensors are marked: then
    the error comes of a fusion that marking undoes, or of a stored file that another build would not repeat.

    Raises:
        EngineError: the backend, or ONNX Runtime, cannot run the marked graph.
    """
    nodes = read_nodes(bundle.graph(component).read_bytes(), component)
    outputs = [spec.name for spec in bundle.component(component).outputs]
    search = _Search(backend, bundle, component, case, built, report)
    search.measure(outputs)
    off = next((name for name in outputs if search.departs(name)), None)
    if off is None:
        return None
    while marked := _next_marks(nodes, off, search):
        search.measure(marked)
        if not any(map(search.departs, outputs)):
            return None
        off = next((name for name in ancestors(nodes, off) if search.departs(name)), off)
    node = next(node for node in nodes if off in node.outputs)
    return Departure(
        component=component,
        case=case.name,
        node=node.name,
        op=node.op,
        tensor=off,
        shape=search.shapes[off],
        difference=search.errors[off],
        threshold=search.threshold,
        builds=search.builds,
    )


@dataclass
class _Search:
    """What is known of a component's tensors, and the builds that made it known."""

    backend: Backend
    bundle: Bundle
    component: str
    case: GoldenCase
    built: bool
    report: Callable[[str], None]
    errors: dict[str, Difference] = field(default_factory=dict, init=False)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict, init=False)
    departing: dict[str, bool] = field(default_factory=dict, init=False)
    builds: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        stated, precision = (
            self.bundle.component(self.component),
            self.backend.key(self.bundle, self.component).precision,
        )
        self.outputs = [spec.name for spec in stated.outputs]
        self.of_outputs, self.threshold = component_threshold(stated, precision), tensor_threshold(stated, precision)

    def departs(self, tensor: str) -> bool:
        """Whether a tensor was seen to be off by more than the threshold."""
        return self.departing.get(tensor, False)

    def measure(self, tensors: Sequence[str]) -> None:
        """Build the engine with these tensors marked, and compare them; the component's own outputs always."""
        self.builds += 1
        self.report(f"build {self.builds}: comparing {len(tensors)} tensors of {self.component}")
        wanted = list(dict.fromkeys([*self.outputs, *tensors]))
        with _marked(self.bundle, self.component, [name for name in wanted if name not in self.outputs]) as marked:
            [expected] = run_as_written(marked.graph(self.component), [self.case.inputs], wanted)
            answers = self._run(_declared(marked, self.component, expected))
        for name in wanted:
            self._note(name, answers[name], expected[name])

    def _note(self, name: str, answer: NDArray[Any], expected: NDArray[Any]) -> None:
        found = _difference(answer, expected)
        within = self.threshold.passes(found, expected)
        if name in self.outputs:
            within = within and self.of_outputs.passes(found, expected)
        self.errors[name], self.shapes[name], self.departing[name] = found, expected.shape, not within

    def _run(self, marked: Bundle) -> Arrays:
        with ExitStack() as stack:
            folder = None
            if self.built:
                folder = Path(stack.enter_context(_build_folder(marked.root)))
                self.backend.build(marked, self.component, folder)
            engine = stack.enter_context(self.backend.open(marked, self.component, folder))
            return engine.run(self.case.inputs)


def _next_marks(nodes: Sequence[Node], off: str, search: _Search) -> list[str]:
    """What to look at next, given that `off` departs: tensors before it, spread evenly; none when its node is found."""
    before = ancestors(nodes, off)
    right = [name for name in before if name in search.errors and not search.departs(name)]
    behind_right = {name for known in right for name in ancestors(nodes, known)}  # taken to be right as well
    unknown = [name for name in before if name not in search.errors and name not in behind_right]
    if not unknown:  # all that is taken for right was not seen to be: look at what the node itself takes
        node = next(node for node in nodes if off in node.outputs)
        unknown = [name for name in before if name in node.inputs and name not in search.errors]
    places = np.linspace(0, len(unknown) - 1, min(MARKS, len(unknown))).round().astype(int)
    return [unknown[place] for place in places]


def _difference(answer: NDArray[Any], expected: NDArray[Any]) -> Difference:
    """Of numbers as they are; of truth values as 0 and 1, so that one that is wrong shows."""
    if expected.dtype == np.bool_:
        return difference(answer.astype(np.int8), expected.astype(np.int8))
    return difference(answer, expected)


@contextmanager
def _marked(bundle: Bundle, component: str, tensors: Sequence[str]) -> Iterator[Bundle]:
    """The bundle with a graph that gives these tensors too; what was written for it is gone when the block ends."""
    stated = bundle.component(component)
    content = with_outputs(bundle.graph(component).read_bytes(), tensors)
    with _beside_weights(bundle, stated) as (root, path):
        (root / path).write_bytes(content)
        changed = msgspec.structs.replace(stated, graph=path)
        manifest = msgspec.structs.replace(
            bundle.manifest,
            components=bundle.manifest.components | {component: changed},
            files=bundle.manifest.files | {path: FileRecord(size=len(content), sha256=sha256(root / path))},
        )
        yield Bundle(root, manifest, bundle.hash)


def _declared(marked: Bundle, component: str, answers: Arrays) -> Bundle:
    """The bundle with every tensor of `answers` among the component's outputs."""
    stated = marked.component(component)
    known = {spec.name for spec in stated.outputs}
    further = tuple(
        TensorSpec(name=name, dtype=str(array.dtype), shape=array.shape)
        for name, array in answers.items()
        if name not in known
    )
    changed = msgspec.structs.replace(stated, outputs=stated.outputs + further)
    components = marked.manifest.components | {component: changed}
    return Bundle(marked.root, msgspec.structs.replace(marked.manifest, components=components), marked.hash)


@contextmanager
def _beside_weights(bundle: Bundle, stated: Component) -> Iterator[tuple[Path, str]]:
    """Root, and name inside it, of a graph that finds the component's weights beside itself.

    That is in the bundle, under a hidden name; where nothing may be written there, among copies of the weights. Links
    would not do: libraries refuse weights behind them, as an attack.
    """
    folder = PurePosixPath(stated.graph or "").parent
    with ExitStack() as stack:
        try:
            file = stack.enter_context(
                tempfile.NamedTemporaryFile(prefix=".bisect.", suffix=".onnx", dir=bundle.root / folder)
            )
        except OSError:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="latentrt-bisect.")))
            (root / folder).mkdir(parents=True)
            for path in stated.weights:
                shutil.copyfile(bundle.file(path), root / path)
            yield root, str(folder / "marked.onnx")
        else:
            yield bundle.root, str(folder / Path(file.name).name)


def _build_folder(root: Path) -> tempfile.TemporaryDirectory[str]:
    """An empty folder that can hold an engine: in the bundle, where there is room for one, if it may be written to."""
    try:
        return tempfile.TemporaryDirectory(prefix=".bisect.", dir=root)
    except OSError:
        return tempfile.TemporaryDirectory(prefix="latentrt-bisect.")
