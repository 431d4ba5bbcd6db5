"""Arguments and options that several commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.", show_default=False)]
EngineOption = Annotated[str, typer.Option("--engine", help="The engine library to use.")]
AnyEngineOption = Annotated[
    str, typer.Option("--engine", help="The engine library to use; auto for the best that can draw here.")
]
PrecisionOption = Annotated[
    Literal["fp32", "fp16", "bf16"] | None,
    typer.Option(help="To compute in; the engine decides if not given."),
]
EngineDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where compiled engines are kept; in the bundle if not given.")
]
DeviceOption = Annotated[int, typer.Option(metavar="N", min=0, help="Which of several GPUs, counted from 0.")]
AllowUnverified = Annotated[
    bool, typer.Option("--allow-unverified", help="Draw with an engine even where it failed verification.")
]
MemoryOption = Annotated[
    str | None,
    typer.Option(metavar="AMOUNT", help="What may be taken, such as 4GB: engines are opened in turn where that helps."),
]
TileOption = Annotated[
    int | None,
    typer.Option(metavar="LATENTS", help="Decode in tiles of this side, 64 for 512 pixels, where it is larger."),
]
