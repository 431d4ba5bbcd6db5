"""The words of the commands that make things: bundles, engines, graphs, packs.

What a command needs is imported when it runs: `generate` must work where PyTorch is not installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentrt.engines.backend import DEFAULT as DEFAULT_ENGINE

from . import export_options as e
from .guard import console
from .option_types import BundleArgument, DeviceOption, EngineDir, EngineOption, PrecisionOption

if TYPE_CHECKING:
    from latentrt.engines.options import BuildOptions


def export(
    source: e.ExportSource,
    output: e.ExportOutput,
    vae: e.ExportVae = None,
    weights: e.ExportWeights = None,
    variant: e.ExportVariant = None,
    prediction: e.ExportPrediction = None,
    precision: e.ExportPrecision = "fp32",
    safety_checker: e.ExportSafetyChecker = None,
    licence: e.ExportLicence = None,
    overwrite: e.ExportOverwrite = False,
    golden_size: e.ExportGoldenSize = None,
    golden_rows: e.ExportGoldenRows = None,
) -> None:
    """Turn a checkpoint into a bundle: ONNX graphs, weights, tokenizer and PyTorch's recorded answers."""
    from .export import ExportOptions, export_command

    options = ExportOptions(
        weights=weights,
        variant=variant,
        prediction=prediction,
        precision=precision,
        safety_checker=safety_checker,
        licence=licence,
        golden_sizes=tuple(golden_size or ()),
        golden_rows=tuple(golden_rows or ()),
        overwrite=overwrite,
    )
    export_command(console, source, output, vae or [], options)


def add_decoder(
    bundle: BundleArgument,
    vae: Annotated[str, typer.Argument(metavar="NAME=PATH", help="A decoder and its name.", show_default=False)],
) -> None:
    """Add a decoder to a bundle that is there; nothing else in it changes, and its engines stay valid."""
    from .export import add_decoder_command

    add_decoder_command(console, bundle, vae)


def build(
    bundle: BundleArgument,
    engine: EngineOption = DEFAULT_ENGINE,
    size: e.BuildSize = None,
    rows: e.BuildRows = "2",
    tokens: e.BuildTokens = "77",
    precision: PrecisionOption = None,
    target: e.BuildTarget = "",
    opt_level: e.BuildOptLevel = None,
    refittable: e.BuildRefittable = False,
    weight_streaming: e.BuildWeightStreaming = False,
    compatible: e.BuildCompatible = False,
    memory_limit: e.BuildMemoryLimit = None,
    opset: e.BuildOpset = None,
    device: DeviceOption = 0,
    engine_dir: EngineDir = None,
) -> None:
    """Compile a bundle's components, and check each against PyTorch's recorded answers where it can run."""
    from .build import build_command

    options = _build_options(
        size,
        rows,
        tokens,
        precision=precision,
        opset=opset,
        targets=tuple(word for word in target.split(",") if word),
        opt_level=opt_level,
        refittable=refittable,
        weight_streaming=weight_streaming,
        compatible=compatible,
        memory_limit=memory_limit,
    )
    build_command(console, bundle, engine, options, device, engine_dir)


def onnx(
    bundle: BundleArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where the graphs are written.")],
    size: e.BuildSize = None,
    rows: e.BuildRows = "2",
    tokens: e.BuildTokens = "77",
    precision: PrecisionOption = None,
    opset: e.BuildOpset = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder that is there.")] = False,
) -> None:
    """Write the ONNX files that builds start from: in a precision, for one shape, in opset 20 for older libraries."""
    from .onnx import onnx_command

    options = _build_options(size, rows, tokens, precision=precision, opset=opset)
    onnx_command(console, bundle, output, options, overwrite)


def pack(
    bundle: BundleArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="The bundle's folder to write.")],
    engine: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="An engine; may be repeated. All that fit if not given.")
    ] = None,
    decoder: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A decoder; may be repeated. All if not given.")
    ] = None,
    engine_dir: EngineDir = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")] = False,
) -> None:
    """Write the smallest bundle that serves on a target: engines in place of graphs and recorded answers."""
    from .pack import pack_command

    pack_command(console, bundle, output, engine or [], decoder or [], engine_dir, overwrite)


def import_embedding(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A .pt, .bin or .safetensors file.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="SAFETENSORS", help="Where the embedding goes.")],
    token: Annotated[str | None, typer.Option(help="The word it is called by; else the file's own.")] = None,
) -> None:
    """Convert a textual inversion to the .safetensors file that generate --embedding takes."""
    from .import_embedding import import_embedding_command

    import_embedding_command(source, output, token)


def _build_options(size: list[str] | None, rows: str, tokens: str, **others: Any) -> BuildOptions:
    """The options of a build, with the words that name its shapes read; `build_command` and others check them."""
    from latentrt.engines.options import BuildOptions
    from latentrt.engines.size import parse_size

    from .words import whole_numbers

    sizes = tuple(map(parse_size, size or []))
    return BuildOptions(
        sizes=sizes, rows=whole_numbers("--rows", rows), tokens=whole_numbers("--tokens", tokens), **others
    )
