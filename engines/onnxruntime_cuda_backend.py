"""ONNX Runtime on an NVIDIA GPU: fp16 unless asked otherwise, every node on the GPU, a CUDA graph for each shape."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .backend import Report, built_folder, no_report
from .bundle import Bundle
from .engine import Engine
from .errors import EngineError, first_line
from .key import EngineKey, component_key
from .manifest import Precision
from .options import DEFAULTS, PROFILE_OPTIONS, BuildOptions
from .passes import PASSES
from .prepared_graph import GRAPH, engine_precision, prepared_graph, stored_graph
from .profile import Profile, profile_text, the_one_profile
from .profiled import ProfiledEngine
from .tensor import Feeds, check_feeds, resolve_shape

try:
    import onnxruntime as ort
except ImportError as error:
    raise EngineError("the onnxruntime-cuda engine needs ONNX Runtime: pip install 'latentrt[cuda]'") from error

CUDA = "CUDAExecutionProvider"
CHANNELS_LAST = frozenset[str]()  # the precisions in which convolutions in that order were measured to be faster
_FATAL_ONLY = 4
_NOT_ON_THE_GPU = "fallback to CPU EP has been explicitly disabled"


@dataclass(frozen=True)
class Place:
    """Where a session runs: ONNX Runtime's provider, its name for the device's memory, and the device's number."""

    provider: str
    memory: str
    device: int


class BoundEngine(ProfiledEngine):
    """One component in a session whose inputs and outputs stay where it runs; a call copies into them and out of them.

    Buffers are kept for each shape that was called; profiles are narrow, so there are few. Where all are static, the
    session captures a CUDA graph for each.
    """

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        key: EngineKey,
        profiles: Sequence[Profile],
        graph: Path,
        place: Place,
        memory_limit: float | None = None,
    ) -> None:
        super().__init__(bundle, name, key, profiles)
        captured = all(profile.static for profile in profiles)
        settings = cuda_settings(place.device, key.precision, captured=captured, memory_limit=memory_limit)
        self._place = place
        self._session: ort.InferenceSession | None = _session(name, graph, place, settings)
        self._bound: dict[tuple[tuple[str, int], ...], _Buffers] = {}

    def _run_profile(self, index: int, feeds: Feeds) -> dict[str, NDArray[Any]]:  # noqa: ARG002 - buffers say the shape
        assert self._session is not None
        sizes = check_feeds(self.name, self.inputs, feeds)
        shape = tuple(sorted(sizes.items()))
        try:
            if shape not in self._bound:  # where the GPU's memory may run out
                self._bound[shape] = _Buffers(self, self._session, self._place, sizes, graph_id=len(self._bound) + 1)
            return self._bound[shape].run(self._session, feeds)
        except Exception as error:  # ORT's exceptions share no public base class
            raise EngineError(f"ONNX Runtime failed in {self.name}: {first_line(error)}") from error

    def close(self) -> None:
        super().close()
        self._bound.clear()
        self._session = None


class _Buffers:
    """Inputs and outputs of one shape in the device's memory; their addresses stay, as a captured graph needs it."""

    def __init__(
        self, engine: Engine, session: ort.InferenceSession, place: Place, sizes: dict[str, int], graph_id: int
    ) -> None:
        def empty(spec: Any) -> ort.OrtValue:
            shape = resolve_shape(spec.shape, sizes)
            return ort.OrtValue.ortvalue_from_shape_and_type(shape, np.dtype(spec.dtype), place.memory, place.device)

        self._inputs = {spec.name: empty(spec) for spec in engine.inputs}
        self._outputs = {spec.name: empty(spec) for spec in engine.outputs}
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(graph_id))

    def run(self, session: ort.InferenceSession, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Copy in, run, copy out."""
        for name, value in self._inputs.items():
            value.update_inplace(np.ascontiguousarray(feeds[name]))
        session.run_with_iobinding(self._binding, self._options)
        return {name: value.numpy().copy() for name, value in self._outputs.items()}


@dataclass(frozen=True)
class OnnxRuntimeCudaBackend:
    """Stores the graph in the engine's precision and shape; ONNX Runtime optimises it for the GPU when it is opened."""

    options: BuildOptions = DEFAULTS
    device: int = 0
    name: ClassVar[str] = "onnxruntime-cuda"
    takes: ClassVar[frozenset[str]] = PROFILE_OPTIONS | {"memory_limit"}
    precisions: ClassVar[tuple[Precision, ...]] = ("fp16", "fp32")

    def key(self, bundle: Bundle, component: str) -> EngineKey:
        return component_key(
            bundle,
            component,
            backend=self.name,
            version=ort.__version__,
            device="any NVIDIA GPU",
            precision=engine_precision(bundle, component, self.options.precision),
            profile=profile_text(self._profiles(bundle, component)),
            flags=(*_limit_flag(self.options.memory_limit), f"passes={PASSES}"),
        )

    def obstacle(self) -> str | None:
        if CUDA not in ort.get_available_providers():
            return "this ONNX Runtime has no CUDA: pip uninstall onnxruntime, then pip install 'latentrt[cuda]'"
        try:
            cuda = importlib.import_module(".trt.cuda", __package__)
        except EngineError as error:  # cuda-python is not there, which comes with the extra
            return str(error)
        reason: str | None = cuda.no_gpu(self.device)
        return reason

    def gpu_name(self) -> str:
        cuda = importlib.import_module(".trt.cuda", __package__)
        name: str = cuda.find_gpu(self.device).name
        return name

    def build(self, bundle: Bundle, component: str, folder: Path, report: Report = no_report) -> None:
        report("preparing the graph", 0)
        precision = engine_precision(bundle, component, self.options.precision)
        prepared = prepared_graph(bundle, component, self._profiles(bundle, component), precision, folder)
        stored_graph(prepared, bundle, component, folder)

    def open(self, bundle: Bundle, component: str, folder: Path | None) -> Engine:
        folder = built_folder(self, bundle, component, folder)
        key, profiles = self.key(bundle, component), self._profiles(bundle, component)
        place, limit = Place(CUDA, "cuda", self.device), self.options.memory_limit
        return BoundEngine(bundle, component, key, profiles, folder / GRAPH, place, limit)

    def _profiles(self, bundle: Bundle, component: str) -> tuple[Profile, ...]:
        # free dimensions are computed by nodes that ONNX Runtime puts on the CPU
        return (the_one_profile(bundle, component, self.options, "an onnxruntime-cuda engine holds one shape"),)


def _limit_flag(memory_limit: float | None) -> tuple[str, ...]:
    return () if memory_limit is None else (f"memory_limit={memory_limit:g}",)


def cuda_settings(device: int, precision: str, *, captured: bool, memory_limit: float | None) -> dict[str, str]:
    """ONNX Runtime's options of its CUDA provider; `memory_limit`, in GB, bounds its arena: all but CUDA's own."""
    settings = {
        "device_id": str(device),
        "use_tf32": str(int(precision != "fp32")),  # 10 bits of mantissa would be no fp32
        "enable_cuda_graph": str(int(captured)),
        "prefer_nhwc": str(int(precision in CHANNELS_LAST)),
    }
    if memory_limit is not None:  # by default the arena doubles, and would run into a limit that the network fits into
        settings |= {"gpu_mem_limit": str(int(memory_limit * 1e9)), "arena_extend_strategy": "kSameAsRequested"}
    return settings


def _session(name: str, graph: Path, place: Place, settings: dict[str, str]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    providers: list[Any] = [place.provider]
    if place.provider == CUDA:
        # a node that falls back to the CPU would copy to it and back at every step
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        providers = [(CUDA, settings)]
        with contextlib.redirect_stdout(io.StringIO()):  # CUDA's own Python packages; it prints what it does not find
            ort.preload_dlls()
    try:
        return ort.InferenceSession(graph, options, providers=providers)
    except Exception as error:
        reason = first_line(error)
        if _NOT_ON_THE_GPU in reason:  # of the provider as a whole, too, where one of CUDA's libraries is missing
            reason = "a node has no kernel for the GPU, or CUDA's libraries are missing: pip install 'latentrt[cuda]'"
        raise EngineError(f"ONNX Runtime cannot load {name} from {graph}: {reason}") from error


BACKEND = OnnxRuntimeCudaBackend()
