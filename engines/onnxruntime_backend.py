"""ONNX Runtime on the CPU: runs a bundle's graphs as they are, or as optimised once and stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from .backend import Report, no_report
from .bundle import Bundle
from .engine import Engine
from .errors import EngineError, first_line
from .key import EngineKey, component_key, cpu
from .manifest import Precision
from .options import DEFAULTS, BuildOptions
from .passes import PASSES
from .prepared_graph import graph_pass
from .tensor import Feeds

try:
    import onnxruntime as ort
except ImportError as error:
    raise EngineError("the onnxruntime engine needs ONNX Runtime: pip install 'latentrt[cpu]'") from error

GRAPH = "graph.onnx"
WEIGHTS = "weights.bin"
_EXTERNAL_FROM_BYTES = 1024  # smaller tensors stay in the graph
_FATAL_ONLY = 4  # ORT's errors reach the user as exceptions; its log would repeat them on the console


class OnnxRuntimeEngine(Engine):
    """One component in an ONNX Runtime session."""

    def __init__(
        self, bundle: Bundle, component: str, key: EngineKey, graph: Path, options: ort.SessionOptions
    ) -> None:
        super().__init__(component, bundle.component(component), key)
        self._session: ort.InferenceSession | None = _session(component, graph, options)
        self._names = [output.name for output in self.outputs]

    def _run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        assert self._session is not None
        return _run(self.name, self._session, self._names, feeds)

    def close(self) -> None:
        super().close()
        self._session = None


@dataclass(frozen=True)
class OnnxRuntimeBackend:
    """Compiles to ONNX Runtime's own optimised graph, so that opening skips the optimiser."""

    options: BuildOptions = DEFAULTS
    device: int = 0
    threads: int = 0  # of one call; 0 is ONNX Runtime's own choice: one for each core
    name: ClassVar[str] = "onnxruntime"
    takes: ClassVar[frozenset[str]] = frozenset()
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32",)

    def key(self, bundle: Bundle, component: str) -> EngineKey:
        return component_key(
            bundle,
            component,
            backend=self.name,
            version=ort.__version__,
            device=cpu(),
            precision="fp32",
            profile="any",
            # what a build rewrites before ONNX Runtime optimises
            flags=("instance-norm", "multi-head-attention", f"passes={PASSES}"),
        )

    def obstacle(self) -> str | None:
        return None

    def on_threads(self, threads: int) -> OnnxRuntimeBackend:
        return replace(self, threads=threads)

    def build(self, bundle: Bundle, component: str, folder: Path, report: Report = no_report) -> None:
        report("optimising", 0)
        options = _options()
        options.optimized_model_filepath = str(folder / GRAPH)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", str(_EXTERNAL_FROM_BYTES)
        )
        graph = bundle.graph(component)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.parent))
        _session(component, graph_pass("for_onnxruntime").onnxruntime_bytes(graph), options)

    def open(self, bundle: Bundle, component: str, folder: Path | None) -> Engine:
        graph = bundle.graph(component) if folder is None else folder / GRAPH
        options = _options() if folder is None else as_written()
        options.intra_op_num_threads = self.threads
        return OnnxRuntimeEngine(bundle, component, self.key(bundle, component), graph, options)


def run_as_written(graph: Path, calls: Sequence[Feeds], outputs: Sequence[str]) -> list[dict[str, NDArray[Any]]]:
    """As `backend.run_as_written`, which imports this module only when it is called."""
    session = _session(graph.stem, graph, as_written())
    return [_run(graph.stem, session, outputs, feeds) for feeds in calls]


def as_written() -> ort.SessionOptions:
    """The options of a session that runs a graph as it is: no optimiser touches it."""
    options = _options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _FATAL_ONLY
    options.enable_mem_pattern = False  # planned from the second call on, beside what the first took: 0.6 times more
    return options


def _session(component: str, graph: Path | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ORT's exceptions share no public base class
        place = "its graph" if isinstance(graph, bytes) else graph
        raise EngineError(f"ONNX Runtime cannot load {component} from {place}: {first_line(error)}") from error


def _run(
    component: str, session: ort.InferenceSession, outputs: Sequence[str], feeds: Feeds
) -> dict[str, NDArray[Any]]:
    try:
        results = session.run(outputs, dict(feeds))
    except Exception as error:  # ORT's exceptions share no public base class
        raise EngineError(f"ONNX Runtime failed in {component}: {first_line(error)}") from error
    return dict(zip(outputs, results, strict=True))


BACKEND = OnnxRuntimeBackend()
