"""The words of the commands that use a bundle: drawing, checking, explaining.

What a command needs is imported when it runs: `inspect` must not wait for an engine library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentrt.engines.backend import DEFAULT as DEFAULT_ENGINE
from latentrt.engines.errors import InputError

from . import generate_options as g
from .guard import console
from .option_types import (
    AllowUnverified,
    AnyEngineOption,
    BundleArgument,
    DeviceOption,
    EngineDir,
    MemoryOption,
    PrecisionOption,
    TileOption,
)


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
    from latentrt.engines.choice import Wanted
    from latentrt.engines.memory_words import parse_memory
    from latentrt.runtime.request import Request

    from .generate import Switches, chosen_spacing, generate_command
    from .words import numbers

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
    from latentrt.engines.choice import Wanted

    from .verify import verify_command

    wanted = Wanted(engine=engine, precision=precision, device=device)
    verify_command(console, bundle, wanted, engine_dir, size or [], bisect, json)


def inspect(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE|PICTURE", help="A bundle's folder, or a picture.")],
    engines: Annotated[
        bool, typer.Option("--engines", help="Only the compiled engines: what each is, and why it fits here or not.")
    ] = False,
    engine_dir: EngineDir = None,
    device: DeviceOption = 0,
) -> None:
    """Explain a bundle (checking every file), its engines, or how a picture was made."""
    from .engines import inspect_engines
    from .inspect import inspect_bundle, inspect_picture

    if not path.exists():
        raise InputError(f"{path} does not exist: name a bundle's folder or a picture")
    if engines:
        inspect_engines(path, engine_dir, device)
    elif path.is_dir():
        inspect_bundle(console, path, engine_dir, device)
    else:
        inspect_picture(path)
