"""The `latentrt` command. Each subcommand parses its words, calls one function, and prints what it gave.

What a command needs is imported when it runs: `generate` must work where PyTorch is not installed.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from . import __version__
from .commands.interrupt import watch_interrupt
from .commands.option_types import (
    AllowUnverified,
    AnyEngineOption,
    BundleArgument,
    DeviceOption,
    EngineDir,
    EngineOption,
    PrecisionOption,
    TileOption,
)
from .commands.printing import one_line
from .engines.backend import DEFAULT as DEFAULT_ENGINE
from .engines.errors import InputError, LatentrtError

INTERRUPTED = 2  # as for any run that a user's action kept from finishing
_TYPER_INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    name="latentrt",
    help="Stable Diffusion 1.5 as verified engines: export once, build anywhere, run without PyTorch.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def main() -> None:
    """Run the command line: one line for each error, and its exit code; never a traceback for bad input."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no valid text
    warnings.showwarning = _show_warning  # type: ignore[assignment] # the other arguments are not used
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code: 0, 1 for a failed check, 2 for any other error."""
    return guarded(lambda: app(arguments, standalone_mode=False))


def guarded(action: Callable[[], object]) -> int:
    """Do `action`; returns its exit code, or prints the one line of its error."""
    with watch_interrupt() as interrupt:
        try:
            code = action()
            sys.stdout.flush()
        except (KeyboardInterrupt, typer.Abort):
            code = _TYPER_INTERRUPTED
        except Exception as error:
            if not interrupt.pressed:
                return _fail_with(error)
            code = _TYPER_INTERRUPTED
    if code == _TYPER_INTERRUPTED:
        return _fail("interrupted; nothing half written was left", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _fail_with(error: Exception) -> int:
    """Print the one line of an error that is the user's to mend; raise any other, which is a defect."""
    if isinstance(error, typer.TyperException):
        return _fail(error.format_message(), LatentrtError.exit_code)
    if isinstance(error, LatentrtError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, MemoryError):
        return _fail("out of memory: ask for a smaller size or fewer pictures", LatentrtError.exit_code)
    if isinstance(error, OSError):
        about = f"{error.filename}: " if error.filename is not None else ""
        return _fail(f"{about}{error.strerror or error}", LatentrtError.exit_code)
    raise error


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(f"latentrt {__version__}" if version else context.get_help())
        raise typer.Exit


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A single-file checkpoint or a diffusers folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="The bundle's folder to write.")],
    vae: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="A refined decoder to add; may be repeated.")
    ] = None,
    weights: Annotated[
        Literal["ema", "raw"] | None,
        typer.Option(help="The averaged weights or the raw ones; the averaged where the checkpoint has them."),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which files of a diffusers folder, such as fp16.")
    ] = None,
    prediction: Annotated[
        Literal["epsilon", "v_prediction"] | None,
        typer.Option(help="What the UNet predicts, where the checkpoint does not say so or is wrong."),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16"], typer.Option(help="Of the graphs: fp16 takes half the disk.")
    ] = "fp32",
    safety_checker: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A safety checker's folder, where SOURCE has none.")
    ] = None,
    licence: Annotated[
        Path | None, typer.Option("--license", metavar="FILE", help="The model's licence, where none is beside SOURCE.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")] = False,
    golden_size: Annotated[
        list[str] | None, typer.Option(metavar="WxH", help="Record PyTorch's answers at this size too; repeatable.")
    ] = None,
    golden_rows: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Record PyTorch's answers to N rows too; repeatable.")
    ] = None,
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
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="WxH", help="A size to have a profile for; repeatable. The model's own if not given."),
    ] = None,
    rows: Annotated[str, typer.Option(metavar="N,N,...", help="Rows of a UNet call to have profiles for.")] = "2",
    tokens: Annotated[str, typer.Option(metavar="N,N,...", help="Tokens of the UNet's text: 77 a chunk.")] = "77",
    precision: PrecisionOption = None,
    target: Annotated[
        str, typer.Option(metavar="smNN,...", help="GPU architectures to build for; this machine's if not given.")
    ] = "",
    opt_level: Annotated[int | None, typer.Option(help="TensorRT's builder optimization level, 0 to 5.")] = None,
    refittable: Annotated[bool, typer.Option("--refittable", help="Let other weights be put in later.")] = False,
    weight_streaming: Annotated[
        bool, typer.Option("--weight-streaming", help="Let weights stay in host memory.")
    ] = False,
    compatible: Annotated[
        bool, typer.Option("--compatible", help="For other versions of the library and other GPUs, too.")
    ] = False,
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
    )
    build_command(console, bundle, engine, options, engine_dir)


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
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What to draw; without it, anything.", show_default=False)
    ] = None,
    negative_prompt: Annotated[str, typer.Option(help="What not to draw.")] = "",
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 20,
    guidance_scale: Annotated[float, typer.Option(help="Strength of the prompt; 1 or less turns guidance off.")] = 7.5,
    guidance_interval: Annotated[
        str | None, typer.Option(metavar="LO,HI", help="Noise levels (sigmas) that guidance is kept to.")
    ] = None,
    guidance_rescale: Annotated[
        float, typer.Option(help="Share of the contrast that guidance may not add, 0 to 1.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of PyTorch's noise stream.")] = 0,
    width: Annotated[int | None, typer.Option(help="Pixels; the model's own size if not given.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; the model's own size if not given.")] = None,
    images: Annotated[int, typer.Option("-n", "--num-images", help="Pictures to draw, all from one noise stream.")] = 1,
    sampler: Annotated[str, typer.Option(help="How to step; docs/samplers.md lists them.")] = "euler",
    spacing: Annotated[
        str | None,
        typer.Option(help="leading, trailing, linspace, karras or exponential; the sampler's own if not given."),
    ] = None,
    karras: Annotated[bool, typer.Option("--karras", help="The same as --spacing karras.")] = False,
    timesteps: Annotated[
        str | None, typer.Option(metavar="T,T,...", help="The timesteps to step through, in place of --steps.")
    ] = None,
    sigmas: Annotated[
        str | None, typer.Option(metavar="S,S,...,0", help="The noise levels to step through, in place of --steps.")
    ] = None,
    eta: Annotated[float | None, typer.Option(help="Share of noise, 0 to 1 (ddim and tcd).")] = None,
    noise: Annotated[
        str, typer.Option(help="PyTorch's stream on cpu, cuda, or a certain GPU: cuda:rtx4090, cuda:128x1536.")
    ] = "cpu",
    seed_per_image: Annotated[
        bool, typer.Option("--seed-per-image", help="Draw the pictures of -n from seed, seed + 1, ... instead.")
    ] = False,
    variation_seed: Annotated[int, typer.Option(help="Seed of the noise that the start noise is turned towards.")] = 0,
    variation_strength: Annotated[float, typer.Option(help="How far, from 0 (not at all) to 1.")] = 0.0,
    prompt_syntax: Annotated[
        Literal["plain", "weighted"],
        typer.Option(help="weighted: (word:1.3), [word] and BREAK mean what they mean in the web UIs."),
    ] = "plain",
    max_prompt_chunks: Annotated[
        int, typer.Option(help="Chunks of 75 tokens that a prompt may fill; the rest is cut.")
    ] = 1,
    clip_skip: Annotated[int | None, typer.Option(help="Last layers of the text encoder to leave out.")] = None,
    embedding: Annotated[
        list[str] | None,
        typer.Option(metavar="[TOKEN=]FILE", help="A textual inversion (.safetensors); may be given again."),
    ] = None,
    decoder: Annotated[str | None, typer.Option(help="A decoder of the bundle.")] = None,
    safety_checker: Annotated[
        bool, typer.Option("--safety-checker/--no-safety-checker", help="Check pictures, where the bundle can.")
    ] = True,
    tile: TileOption = None,
    engine: AnyEngineOption = DEFAULT_ENGINE,
    precision: PrecisionOption = None,
    engine_dir: EngineDir = None,
    device: DeviceOption = 0,
    allow_unverified: AllowUnverified = False,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="PNG", help="Where the picture goes.")] = Path(
        "out.png"
    ),
) -> None:
    """Draw a prompt. With -n above 1 the files are numbered: out-1.png, out-2.png, ..."""
    from .commands.generate import Switches, chosen_spacing, generate_command
    from .commands.words import numbers
    from .engines.choice import Wanted
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
    switches = Switches(wanted=wanted, engine_dir=engine_dir, safety_checker=safety_checker, tile=tile)
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


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    if category.__module__.startswith("latentrt"):
        console.print(f"warning: {one_line(str(message))}", markup=False)


def _fail(message: str, code: int) -> int:
    console.print(f"error: {one_line(message)}", markup=False)
    return code
