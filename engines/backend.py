"""The contract of a backend, and the list of them. A backend is one module; its library is imported there alone."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from .bundle import Bundle
from .engine import Engine
from .errors import unknown_name
from .key import EngineKey
from .tensor import Feeds

_MODULES = {"onnxruntime": "onnxruntime_backend", "fake": "fake_backend"}
DEFAULT = "onnxruntime"


class Backend(Protocol):
    """What one engine library does for a component of a bundle."""

    name: str

    def key(self, bundle: Bundle, component: str) -> EngineKey:
        """The key of the engine that this backend would use here and now."""

    def build(self, bundle: Bundle, component: str, folder: Path) -> None:
        """Compile the component into `folder`, which is empty.

        Raises:
            EngineError: the library cannot compile it.
        """

    def open(self, bundle: Bundle, component: str, folder: Path | None) -> Engine:
        """Open what `build` left in `folder`, or without one the component as the bundle holds it.

        Raises:
            EngineError: the library cannot open it.
        """


def backend_names() -> list[str]:
    """The names of the engines that draw pictures; `get_backend` also takes "fake", which does not."""
    return [name for name in _MODULES if name != "fake"]


def get_backend(name: str) -> Backend:
    """The backend of this name.

    Raises:
        InputError: there is none of this name.
        EngineError: its library is not installed.
    """
    if name not in _MODULES:
        raise unknown_name("engine", name, backend_names())
    backend: Backend = importlib.import_module(f".{_MODULES[name]}", __package__).BACKEND
    return backend


def run_as_written(graph: Path, calls: Sequence[Feeds], outputs: Sequence[str]) -> list[dict[str, NDArray[Any]]]:
    """What a graph computes when no optimiser has touched it: onnxruntime on the CPU, node by node.

    Raises:
        EngineError: ONNX Runtime is not installed, or cannot run the graph.
    """
    module = importlib.import_module(f".{_MODULES['onnxruntime']}", __package__)
    answers: list[dict[str, NDArray[Any]]] = module.run_as_written(graph, calls, outputs)
    return answers
