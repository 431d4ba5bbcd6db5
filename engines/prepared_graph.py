"""The graph that an engine is compiled from: the bundle's own, or one in its precision and shape beside it."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from .bundle import Bundle
from .errors import EngineError, InputError
from .profile import Profile

DEFAULT_PRECISION = "fp16"
GRAPH = "graph.onnx"


def prepared_graph(
    bundle: Bundle,
    component: str,
    profiles: Sequence[Profile],
    precision: str,
    folder: Path,
    opset: int | None = None,
) -> Path:
    """The path of an ONNX file that computes in `precision`, static where there is one static profile.

    With `opset` 20 it is written out in that; None leaves the bundle's.

    Raises:
        InputError: that opset does not have the precision.
        EngineError: `onnx-ir` is not installed, a weight does not fit, or a node has no form in the opset.
    """
    if opset is not None and precision == "bf16":
        raise InputError(f"opset {opset} of ONNX has no bf16 convolution: build with --precision fp16 or fp32")
    graph, only = bundle.graph(component), profiles[0] if len(profiles) == 1 else None
    bound = {name: span.usual for name, span in only.dimensions.items()} if only is not None and only.static else None
    half = precision if precision != bundle.component(component).precision else None
    if bound is None and half is None and opset is None:
        return graph
    try:
        prepared: Path = graph_pass("prepared").prepare(
            graph, folder / GRAPH, bound=bound, half=half, old=opset is not None
        )
    except NotImplementedError as error:
        raise EngineError(f"{component}: {error}") from error
    except ValueError as error:
        raise EngineError(f"{component}: {error}: build with --precision bf16 or fp32") from error
    return prepared


def graph_pass(name: str) -> ModuleType:
    """The module `passes/NAME.py`; only these need an ONNX library.

    Raises:
        EngineError: the library is not installed.
    """
    try:
        return importlib.import_module(f".passes.{name}", __package__)
    except ImportError as error:
        raise EngineError(f"this build rewrites the graph and needs {error.name}: pip install onnx-ir") from error


def stored_graph(prepared: Path, bundle: Bundle, component: str, folder: Path) -> Path:
    """What `prepared_graph` gave, now surely in `folder`: the bundle's own graph is copied there with its weights."""
    if prepared.parent != folder:
        shutil.copy2(prepared, folder / GRAPH)
        for weights in bundle.component(component).weights:
            shutil.copy2(bundle.file(weights), folder)
    return folder / GRAPH


def engine_precision(bundle: Bundle, component: str, asked: str | None) -> str:
    """What an engine of the component computes in: as asked, fp16 otherwise.

    Raises:
        InputError: the bundle holds less than was asked for.
    """
    precision, held = asked or DEFAULT_PRECISION, bundle.component(component).precision
    if held not in {"fp32", precision}:
        raise InputError(
            f"the {component} of {bundle.root} is in {held}, and an engine in {precision} needs more: "
            "export with --precision fp32"
        )
    return precision
