"""The graphs that builds start from, as ONNX files that any tool reads: for machines where latentrt does not run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from .atomic import new_folder
from .bundle import Bundle
from .options import BuildOptions
from .prepared_graph import engine_precision, prepared_graph, stored_graph
from .profile import profile_text, profiles_for


@dataclass(frozen=True)
class PlainGraph:
    """One component's ONNX file, what it computes in, and the shapes it is meant for."""

    file: Path
    precision: str
    profiles: str


def write_graphs(
    bundle: Bundle, output: Path, options: BuildOptions, *, overwrite: bool = False
) -> dict[str, PlainGraph]:
    """Write `COMPONENT/graph.onnx`, its weights beside it, for each component, and the licence; returns them by name.

    Of the options it takes the precision (fp16 unless asked otherwise), the sizes, rows and tokens (one of each makes
    the graph static), and the opset.

    Raises:
        InputError: the options do not fit the model, or each other.
        EngineError: as `prepared_graph.prepared_graph`.
        OutputError: `output` is there already, or cannot be written.
    """
    found = {}
    with new_folder(output, overwrite=overwrite) as beside:
        for component in bundle.manifest.components:
            (beside / component).mkdir()
            profiles = profiles_for(bundle, component, options)
            precision = engine_precision(bundle, component, options.precision)
            folder = beside / component
            prepared = prepared_graph(bundle, component, profiles, precision, folder, options.opset)
            graph = stored_graph(prepared, bundle, component, folder)
            place = output / graph.relative_to(beside)
            found[component] = PlainGraph(file=place, precision=precision, profiles=profile_text(profiles))
        for file in bundle.manifest.licence.files:
            shutil.copyfile(bundle.file(file), beside / Path(file).name)
    return found
