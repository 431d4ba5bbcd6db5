"""Networks -> components of a bundle, one after another: each is read, recorded, exported, let go, and compared."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from latentrt.engines.manifest import Component, ExportPrecision
from latentrt.engines.threshold import output_threshold

from .compare import check_graph, round_up
from .golden import save_cases
from .onnx_export import write_graph
from .recorder import Recording
from .traces import Trace, traces
from .wrappers import Loader


@dataclass(frozen=True)
class Progress:
    """One component of an export: told at each thing it goes through, and when it is done (`seconds` is not None).

    `max_abs_error` is onnxruntime against PyTorch, on unit scale; `size` is the weights' bytes in the bundle.
    """

    part: str
    index: int  # counts from 0 up to total - 1
    total: int
    doing: str = ""  # reading, recording, tracing, reducing, comparing
    seconds: float | None = None
    max_abs_error: float | None = None
    size: int | None = None


Report = Callable[[Progress], None]


def no_report(progress: Progress) -> None:
    """Report nothing."""


def write_components(
    loaders: Mapping[str, Loader],
    recording: Recording,
    folder: Path,
    report: Report = no_report,
    precision: ExportPrecision = "fp32",
) -> dict[str, Component]:
    """Write each component's graph, weights and recorded answers into `folder`; returns them by name.

    The recorded answers are PyTorch's in fp32, whatever the graph's precision.

    Raises:
        CheckFailedError: a component differs from PyTorch by more than the threshold.
    """
    components = {}
    with traces([loader.outline() for loader in loaders.values()]) as traced:
        for index, (name, loader) in enumerate(loaders.items()):
            start = time.perf_counter()

            def doing(what: str, name: str = name, index: int = index) -> None:
                report(Progress(name, index, len(loaders), what))

            components[name], error = _write(loader, traced[name], recording, folder, doing, precision)
            size = sum((folder / weights).stat().st_size for weights in components[name].weights)
            report(Progress(name, index, len(loaders), "", time.perf_counter() - start, error, size))
    return components


def _write(
    loader: Loader,
    traced: Trace,
    recording: Recording,
    folder: Path,
    doing: Callable[[str], None],
    precision: ExportPrecision,
) -> tuple[Component, float]:
    doing("reading")
    network = loader.load()
    name, inputs, outputs = network.name, network.inputs, network.outputs
    doing("recording")
    cases = recording.record(network)
    golden = folder / "golden" / f"{name}.safetensors"
    save_cases(cases, golden)
    doing("tracing")
    graph, weights = write_graph(network, traced(), folder / "onnx", precision)
    doing("reducing")
    floor = recording.floor(network, cases)
    del network
    gc.collect()  # a traced module is in reference cycles, and onnxruntime is about to need its place
    doing("comparing")
    threshold = output_threshold(precision, floor.get(precision))
    error = check_graph(name, graph, cases, threshold)
    component = Component(
        graph=inside(folder, graph),
        weights=(inside(folder, weights),),
        inputs=inputs,
        outputs=outputs,
        golden=inside(folder, golden),
        max_abs_error=round_up(error),
        precision=precision,
        floor=floor,
    )
    return component, error


def inside(folder: Path, file: Path) -> str:
    """A file's path in the folder, as the manifest has it."""
    return file.relative_to(folder).as_posix()
