"""The words of the commands that serve. What it needs is imported when it runs: other commands go without it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentrt.engines.backend import DEFAULT as DEFAULT_ENGINE

from . import generate_options as g
from . import serve_options as s
from .guard import console, needing_extra
from .option_types import (
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


def serve(
    bundle: BundleArgument,
    host: s.Host = "127.0.0.1",
    port: s.Port = 8000,
    engine: AnyEngineOption = DEFAULT_ENGINE,
    precision: PrecisionOption = None,
    engine_dir: EngineDir = None,
    device: DeviceOption = 0,
    allow_unverified: AllowUnverified = False,
    safety_checker: g.SafetyChecker = True,
    embedding: g.Embedding = None,
    tile: TileOption = None,
    memory: MemoryOption = None,
    max_rows: s.MaxRows = 8,
    max_queue: s.MaxQueue = 64,
    max_per_key: s.MaxPerKey = None,
    request_timeout: s.RequestTimeout = 120,
    grace: s.Grace = None,
    stall_timeout: s.StallTimeout = None,
    api_key_file: s.ApiKeyFile = None,
    allowed_host: s.AllowedHost = None,
    max_pixels: s.MaxPixels = 1024 * 1024,
    max_steps: s.MaxSteps = 150,
    max_images: s.MaxImages = 10,
    max_prompt_chars: s.MaxPromptChars = 4000,
    max_body_bytes: s.MaxBodyBytes = 2**20,
    model_name: s.ModelName = None,
    previews: s.Previews = True,
) -> None:
    """Draw pictures for clients over HTTP; requests join at any step. Logs go to standard error, as lines of JSON."""
    with needing_extra("serve"):
        from latentrt.runtime.serve.api_keys import read_api_keys
        from latentrt.runtime.serve.opening import Opening
        from latentrt.runtime.serve.settings import ServeSettings

        from .serve import serve_command
    from latentrt.engines.choice import Wanted
    from latentrt.engines.memory_words import parse_memory

    settings = ServeSettings(
        max_rows=max_rows,
        max_queue=max_queue,
        max_per_key=max_per_key,
        request_timeout=request_timeout,
        grace=grace,
        stall_timeout=stall_timeout,
        max_pixels=max_pixels,
        max_steps=max_steps,
        max_images=max_images,
        max_prompt_chars=max_prompt_chars,
        max_body_bytes=max_body_bytes,
        api_keys=None if api_key_file is None else read_api_keys(api_key_file),
        allowed_hosts=frozenset(name.lower() for name in allowed_host) if allowed_host else None,
        model_name=model_name,
        previews=previews,
    )
    wanted = Wanted(engine=engine, precision=precision, device=device, allow_unverified=allow_unverified)
    budget = None if memory is None else parse_memory(memory)
    opening = Opening(
        path=bundle,
        wanted=wanted,
        engine_dir=engine_dir,
        safety_checker=safety_checker,
        tile=tile,
        memory=budget,
        max_rows=max_rows,
        embeddings=embedding or (),
    )
    serve_command(console, opening, settings, host, port)


def triton(
    bundle: BundleArgument,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="REPOSITORY", help="The model repository; may have other models."),
    ],
    bundle_at: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Where the serving machine has the bundle; copied if not given."),
    ] = None,
    engine: EngineOption = DEFAULT_ENGINE,
    precision: PrecisionOption = None,
    engine_dir: EngineDir = None,
    allow_unverified: AllowUnverified = False,
    safety_checker: g.SafetyChecker = True,
    tile: TileOption = None,
    memory: MemoryOption = None,
    max_rows: s.MaxRows = 8,
    max_queue: s.MaxQueue = 64,
    request_timeout: s.RequestTimeout = 120,
    stall_timeout: s.StallTimeout = None,
    max_pixels: s.MaxPixels = 1024 * 1024,
    max_steps: s.MaxSteps = 150,
    max_images: s.MaxImages = 10,
    max_prompt_chars: s.MaxPromptChars = 4000,
    model_name: s.ModelName = None,
) -> None:
    """Write a Triton model repository: one model, in Python, that holds the whole loop; requests join at any step."""
    from latentrt.runtime.serve.triton.parameters import Parameters

    from .triton import triton_command

    parameters = Parameters(
        bundle=str(bundle),
        engine=engine,
        precision=precision,
        engine_dir=None if engine_dir is None else str(engine_dir),
        allow_unverified=allow_unverified,
        safety_checker=safety_checker,
        tile=tile,
        memory=memory,
        max_rows=max_rows,
        max_queue=max_queue,
        request_timeout=request_timeout,
        stall_timeout=stall_timeout,
        max_pixels=max_pixels,
        max_steps=max_steps,
        max_images=max_images,
        max_prompt_chars=max_prompt_chars,
    )
    triton_command(console, bundle, output, parameters, model_name=model_name, bundle_at=bundle_at)
