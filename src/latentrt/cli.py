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

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.", show_default=False)]
EngineOption = Annotated[str, typer.Option("--engine", help="The engine library to use.")]


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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")] = False,
) -> None:
    """Turn a checkpoint into a bundle: ONNX graphs, weights, tokenizer and PyTorch's recorded answers."""
    from .commands.export import ExportOptions, export_command

    options = ExportOptions(weights=weights, variant=variant, prediction=prediction, overwrite=overwrite)
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
def build(bundle: BundleArgument, engine: EngineOption = DEFAULT_ENGINE) -> None:
    """Compile a bundle's components for this machine, and check each against PyTorch's recorded answers."""
    from .commands.build import build_command

    build_command(console, bundle, engine)


@app.command()
def generate(
    bundle: BundleArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw; may be empty.", show_default=False)],
    negative_prompt: Annotated[str, typer.Option(help="What not to draw.")] = "",
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 20,
    guidance_scale: Annotated[float, typer.Option(help="Strength of the prompt; 1 or less turns guidance off.")] = 7.5,
    seed: Annotated[int, typer.Option(help="Seed of PyTorch's noise stream.")] = 0,
    width: Annotated[int | None, typer.Option(help="Pixels; the model's own size if not given.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; the model's own size if not given.")] = None,
    images: Annotated[int, typer.Option("-n", "--num-images", help="Pictures to draw, all from one noise stream.")] = 1,
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
    sampler: Annotated[str, typer.Option(help="euler, euler_ancestral, ddim, pndm or dpmpp_2m.")] = "euler",
    karras: Annotated[bool, typer.Option("--karras", help="Karras noise levels (euler and dpmpp_2m).")] = False,
    decoder: Annotated[str | None, typer.Option(help="A decoder of the bundle.")] = None,
    engine: EngineOption = DEFAULT_ENGINE,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="PNG", help="Where the picture goes.")] = Path(
        "out.png"
    ),
) -> None:
    """Draw a prompt. With -n above 1 the files are numbered: out-1.png, out-2.png, ..."""
    from .commands.generate import generate_command
    from .runtime.request import Request

    request = Request(
        prompt=prompt,
        negative_prompt=negative_prompt,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        seed=seed,
        width=width,
        height=height,
        num_images_per_prompt=images,
        sampler=sampler,
        karras=karras,
        decoder=decoder,
        noise=noise,
        seed_per_image=seed_per_image,
        variation_seed=variation_seed,
        variation_strength=variation_strength,
        prompt_syntax=prompt_syntax,
        max_prompt_chunks=max_prompt_chunks,
        clip_skip=clip_skip,
    )
    generate_command(console, bundle, request, engine, output, embeddings=embedding or [])


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
) -> None:
    """Explain a bundle (checking every file), its engines, or how a picture was made."""
    from .commands.inspect import inspect_bundle, inspect_picture

    if not path.exists():
        raise InputError(f"{path} does not exist: name a bundle's folder or a PNG picture")
    if path.is_dir():
        inspect_bundle(console, path)
    else:
        inspect_picture(path)


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    if category.__module__.startswith("latentrt"):
        console.print(f"warning: {one_line(str(message))}", markup=False)


def _fail(message: str, code: int) -> int:
    console.print(f"error: {one_line(message)}", markup=False)
    return code
