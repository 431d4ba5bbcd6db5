"""The contract of a backend, and the list of them. A backend is one module; its library is imported there alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from .bundle import Bundle
from .engine import Engine
from .errors import EngineError, unknown_name
from .key import EngineKey
from .options import DEFAULTS, BuildOptions, check_taken
from .scratch import Scratch
from .tensor import Feeds

_MODULES = {
    "onnxruntime": "onnxruntime_backend",
    "onnxruntime-cuda": "onnxruntime_cuda_backend",
    "openvino": "openvino_backend",
    "tensorrt": "tensorrt_backend",
    "tensorrt-rtx": "tensorrt_rtx_backend",
    "fake": "fake_backend",
}
DEFAULT = "onnxruntime"
NEED_BUILDING = frozenset({"onnxruntime-cuda", "tensorrt", "tensorrt-rtx"})  # the others open graphs as they are
ON_GPU = frozenset({"onnxruntime-cuda", "tensorrt", "tensorrt-rtx"})  # the others compute on the processor


Report = Callable[[str, float], None]  # what a build is doing, and which share of that is done, 0 to 1


def no_report(doing: str, share: float) -> None:
    """Report nothing."""


class Backend(Protocol):
    """What one engine library does for a component of a bundle, with certain options, on a certain device."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""

    @property
    def options(self) -> BuildOptions:
        """What its engines are built with; those it opens were."""

    def key(self, bundle: Bundle, component: str) -> EngineKey:
        """The key of the engine that this backend would use here and now.

        Raises:
            InputError: the options do not fit the model.
        """

    def obstacle(self) -> str | None:
        """Why engines of this backend cannot run here, though they may be built: no device, or another than theirs."""

    def build(self, bundle: Bundle, component: str, folder: Path, report: Report = no_report) -> None:
        """Compile the component into `folder`, which is empty.

        Raises:
            EngineError: the library cannot compile it.
        """

    def open(self, bundle: Bundle, component: str, folder: Path | None) -> Engine:
        """Open what `build` left in `folder`, or without one the component as the bundle holds it.

        Raises:
            EngineError: the library cannot open it.
        """


@runtime_checkable
class StreamingBackend(Protocol):
    """A backend whose engines may keep weights in the host's memory, where they were built to."""

    def keeping(self, resident: int) -> Backend:
        """The same backend; engines that it opens keep at most so many bytes of weights on the GPU."""


@runtime_checkable
class SharingBackend(Protocol):
    """A backend whose engines may have something in common where they run in turn."""

    def sharing(self, scratch: Scratch) -> Backend:
        """The same backend; engines that it opens share what lies in `scratch`."""


@runtime_checkable
class ThreadedBackend(Protocol):
    """A backend whose engines compute on the processor's cores, and may be kept to some of them."""

    def on_threads(self, threads: int) -> Backend:
        """The same backend; engines that it opens compute in so many threads."""


@runtime_checkable
class GpuBackend(Protocol):
    """A backend whose engines run on a GPU, of which the key names the kind at most."""

    def gpu_name(self) -> str:
        """What the GPU calls itself that engines run on here: `"NVIDIA H100 80GB HBM3"`.

        Raises:
            EngineError: there is none.
        """


def device_name(backend: Backend) -> str:
    """The device that a check here is made on, as far as a key leaves that open: a GPU's name; "" for a processor.

    Raises:
        EngineError: there is no such device.
    """
    return backend.gpu_name() if isinstance(backend, GpuBackend) else ""


def built_folder(backend: Backend, bundle: Bundle, component: str, folder: Path | None) -> Path:
    """The folder that `open` was given, of a backend that opens only what was built, and only where it can run.

    Raises:
        EngineError: nothing was built, or it cannot run here.
    """
    if folder is None:
        raise EngineError(
            f"there is no {backend.name} engine of {component} for this machine: run "
            f"'latentrt build {bundle.root} --engine {backend.name}'"
        )
    if reason := backend.obstacle():
        raise EngineError(f"the {backend.name} engine of {component} cannot run here: {reason}")
    return folder


def backend_names() -> list[str]:
    """The names of the engines that draw pictures; `get_backend` also takes "fake", which does not."""
    return [name for name in _MODULES if name != "fake"]


def get_backend(name: str, options: BuildOptions = DEFAULTS, device: int = 0) -> Backend:
    """The backend of this name; `device` counts those of its kind in this machine.

    Raises:
        InputError: there is none of this name, or it has no use for an option.
        EngineError: its library is not installed.
    """
    if name not in _MODULES:
        raise unknown_name("engine", name, backend_names())
    backend = importlib.import_module(f".{_MODULES[name]}", __package__).BACKEND
    check_taken(name, options, backend.takes, backend.precisions)
    configured: Backend = replace(backend, options=options, device=device)
    return configured


def run_as_written(graph: Path, calls: Sequence[Feeds], outputs: Sequence[str]) -> list[dict[str, NDArray[Any]]]:
    """What a graph computes when no optimiser has touched it: onnxruntime on the CPU, node by node.

    Raises:
        EngineError: ONNX Runtime is not installed, or cannot run the graph.
    """
    module = importlib.import_module(f".{_MODULES['onnxruntime']}", __package__)
    answers: list[dict[str, NDArray[Any]]] = module.run_as_written(graph, calls, outputs)
    return answers
