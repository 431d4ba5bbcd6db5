"""The `latentrt` command. Each subcommand parses its words, calls one function, and prints what it gave.

What a command needs is imported when it runs: `generate` must work where PyTorch is not installed.
"""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .commands import export_options as e
from .commands import generate_options as g
from .commands.guard import console, guarded, show_warning
from .commands.option_types import (
    AllowUnverified,
    AnyEngineOption,
    BundleArgument,
    DeviceOption,
    EngineDir,
    EngineOption,
    MemoryOption,
    PrecisionOption,
    TileOption,
)
from .engines.backend import DEFAULT as DEFAULT_ENGINE
from .engines.errors import InputError

app = typer.Typer(
    name="latentrt",
    help="Stable Diffusion 1.5 as verified engines: export once, build anywhere, run without PyTorch.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line: one line for each error, and its exit code; never a traceback for bad input."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no valid text
    warnings.showwarning = show_warning  # type: ignore[assignment] # the other arguments are not used
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code: 0, 1 for a failed check, 2 for any other error."""
    return guarded(lambda: app(arguments, standalone_mode=False))


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(f"latentrt {__version__}" if version else context.get_help())
        raise typer.Exit


@app.command()
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
    from .commands.export import ExportOptions, export_command

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


@app.command("add-decoder")
def add_decoder(
    bundle: BundleArgument,
    vae: Annotated[str, typer.Argument(metavar="NAME=PATH", help="A decoder and its name.", show_default=False)],
) -> None:
    """Add a decoder to a bundle that is there; nothing else in it changes, and its engines stay valid."""
    from .commands.export import add_decoder_command

    add_decoder_command(console, bundle, vae)


@app.command()
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
    engine_dir: EngineDir = None,
) -> None:
    """Compile a bundle's components, and check each against PyTorch's recorded answers where it can run."""
    from .commands.build import build_command
    from .commands.words import whole_numbers
    from .engines.options import BuildOptions
    from .engines.size import parse_size

    options = BuildOptions(
        precision=precision,
        sizes=tuple(map(parse_size, size or [])),
        rows=whole_numbers("--rows", rows),
        tokens=whole_numbers("--tokens", tokens),
        targets=tuple(word for word in target.split(",") if word),
        opt_level=opt_level,
        refittable=refittable,
        weight_streaming=weight_streaming,
        compatible=compatible,
        memory_limit=memory_limit,
        opset=opset,  # type: ignore[arg-type] # `checked` looks at it
    )
    build_command(console, bundle, engine, options, engine_dir)


@app.command()
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
    from .commands.onnx import onnx_command
    from .commands.words import whole_numbers
    from .engines.options import BuildOptions
    from .engines.size import parse_size

    options = BuildOptions(
        precision=precision,
        sizes=tuple(map(parse_size, size or [])),
        rows=whole_numbers("--rows", rows),
        tokens=whole_numbers("--tokens", tokens),
        opset=opset,  # type: ignore[arg-type] # `checked` looks at it
    )
    onnx_command(console, bundle, output, options, overwrite)


@app.command()
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
    from .commands.pack import pack_command

    pack_command(console, bundle, output, engine or [], decoder or [], engine_dir, overwrite)


@app.command()
def verify(
    bundle: BundleArgument,
    engine: AnyEngineOption = DEFAULT_ENGINE,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="WxH", help="Check this size too: where PyTorch recorded none, against ONNX Runtime."),
    ] = None,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Find the first tensor in a failing component's graph that is off.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    precision: PrecisionOption = None,
    engine_dir: EngineDir = None,
    device: DeviceOption = 0,
) -> None:
    """Replay PyTorch's recorded answers and pictures in an engine; exit code 1 if one is beyond its threshold."""
    from .commands.verify import verify_command
    from .engines.choice import Wanted

    wanted = Wanted(engine=engine, precision=precision, device=device)
    verify_command(console, bundle, wanted, engine_dir, size or [], bisect, json)


@app.command()
def generate(
    bundle: BundleArgument,
    prompt: g.GeneratePrompt = None,
    negative_prompt: g.NegativePrompt = "",
    steps: g.Steps = 20,
    guidance_scale: g.GuidanceScale = 7.5,
    guidance_interval: g.GuidanceInterval = None,
    guidance_rescale: g.GuidanceRescale = 0,
    seed: g.Seed = 0,
    width: g.Width = None,
    height: g.Height = None,
    images: g.Images = 1,
    sampler: g.Sampler = "euler",
    spacing: g.Spacing = None,
    karras: g.Karras = False,
    timesteps: g.Timesteps = None,
    sigmas: g.Sigmas = None,
    eta: g.Eta = None,
    noise: g.Noise = "cpu",
    seed_per_image: g.SeedPerImage = False,
    variation_seed: g.VariationSeed = 0,
    variation_strength: g.VariationStrength = 0.0,
    prompt_syntax: g.PromptSyntax = "plain",
    max_prompt_chunks: g.MaxPromptChunks = 1,
    clip_skip: g.ClipSkip = None,
    embedding: g.Embedding = None,
    decoder: g.Decoder = None,
    safety_checker: g.SafetyChecker = True,
    tile: TileOption = None,
    memory: MemoryOption = None,
    engine: AnyEngineOption = DEFAULT_ENGINE,
    precision: PrecisionOption = None,
    engine_dir: EngineDir = None,
    device: DeviceOption = 0,
    allow_unverified: AllowUnverified = False,
    output: g.GenerateOutput = Path("out.png"),
) -> None:
    """Draw a prompt. With -n above 1 the files are numbered: out-1.png, out-2.png, ..."""
    from .commands.generate import Switches, chosen_spacing, generate_command
    from .commands.words import numbers
    from .engines.choice import Wanted
    from .engines.memory_words import parse_memory
    from .runtime.request import Request

    request = Request(
        prompt=prompt,
        negative_prompt=negative_prompt,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        guidance_interval=numbers("--guidance-interval", guidance_interval),  # type: ignore[arg-type] # `plan` checks it
        guidance_rescale=guidance_rescale,
        seed=seed,
        width=width,
        height=height,
        num_images_per_prompt=images,
        sampler=sampler,
        spacing=chosen_spacing(spacing, karras),
        timesteps=numbers("--timesteps", timesteps),
        sigmas=numbers("--sigmas", sigmas),
        eta=eta,
        decoder=decoder,
        noise=noise,
        seed_per_image=seed_per_image,
        variation_seed=variation_seed,
        variation_strength=variation_strength,
        prompt_syntax=prompt_syntax,
        max_prompt_chunks=max_prompt_chunks,
        clip_skip=clip_skip,
    )
    wanted = Wanted(engine=engine, precision=precision, device=device, allow_unverified=allow_unverified)
    budget = None if memory is None else parse_memory(memory)
    switches = Switches(wanted, engine_dir=engine_dir, safety_checker=safety_checker, tile=tile, memory=budget)
    generate_command(console, bundle, request, output, switches, embeddings=embedding or [])


@app.command()
def import_embedding(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A .pt, .bin or .safetensors file.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="SAFETENSORS", help="Where the embedding goes.")],
    token: Annotated[str | None, typer.Option(help="The word it is called by; else the file's own.")] = None,
) -> None:
    """Convert a textual inversion to the .safetensors file that generate --embedding takes."""
    from .commands.import_embedding import import_embedding_command

    import_embedding_command(source, output, token)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE|PNG", help="A bundle's folder, or a picture.")],
    engines: Annotated[
        bool, typer.Option("--engines", help="Only the compiled engines: what each is, and why it fits here or not.")
    ] = False,
    engine_dir: EngineDir = None,
    device: DeviceOption = 0,
) -> None:
    """Explain a bundle (checking every file), its engines, or how a picture was made."""
    from .commands.engines import inspect_engines
    from .commands.inspect import inspect_bundle, inspect_picture

    if not path.exists():
        raise InputError(f"{path} does not exist: name a bundle's folder or a PNG picture")
    if engines:
        inspect_engines(path, engine_dir, device)
    elif path.is_dir():
        inspect_bundle(console, path, engine_dir, device)
    else:
        inspect_picture(path)
