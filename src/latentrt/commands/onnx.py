"""`latentrt onnx`: the graphs that builds start from, as plain ONNX files for another machine's tools."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from latentrt.engines.bundle import Bundle
from latentrt.engines.licence import asked_of_distributors
from latentrt.engines.options import BuildOptions, checked
from latentrt.engines.plain_graphs import write_graphs

from .printing import one_line


def onnx_command(console: Console, path: Path, output: Path, options: BuildOptions, overwrite: bool) -> None:
    """Write every component's graph; prints a line for each."""
    bundle = Bundle.open(path)
    options = checked(options)
    with console.status(f"writing {output}"):
        found = write_graphs(bundle, output, options, overwrite=overwrite)
    for component, graph in found.items():
        print(one_line(f"{component:24} {graph.file}  {graph.precision}, {graph.profiles}"))
    console.print(f"note: {asked_of_distributors(bundle.manifest.licence)}", markup=False)
