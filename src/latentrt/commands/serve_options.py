"""What `latentrt serve` can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Host = Annotated[str, typer.Option(help="Address to listen on; other machines reach only what is no loopback.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free; the log names it.")]
MaxRows = Annotated[int, typer.Option(min=1, help="Rows of one UNet call; a guided picture takes two.")]
MaxQueue = Annotated[int, typer.Option(min=0, help="Pictures that may wait beside those that are drawn together.")]
MaxPerKey = Annotated[int | None, typer.Option(min=1, help="Pictures that one API key may have under way.")]
RequestTimeout = Annotated[float, typer.Option(metavar="SECONDS", help="After which a request is given up.")]
Grace = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="That SIGTERM leaves to what is under way; --request-timeout if not given."),
]
StallTimeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="After which a call of an engine is taken for hung and the process ends with 75; twice "
        "--request-timeout, and 300 or more, if not given.",
    ),
]
ApiKeyFile = Annotated[Path | None, typer.Option(metavar="FILE", help="A key a line; without it, anybody may ask.")]
AllowedHost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A name that clients call this machine by; may be given again."),
]
MaxPixels = Annotated[int, typer.Option(min=1, help="Width times height of a picture.")]
MaxSteps = Annotated[int, typer.Option(min=1, help="Denoising steps of a picture.")]
MaxImages = Annotated[int, typer.Option(min=1, help="Pictures of one request.")]
MaxPromptChars = Annotated[int, typer.Option(min=1, help="Characters of a prompt.")]
MaxBodyBytes = Annotated[int, typer.Option(min=1, help="Of a request's body.")]
ModelName = Annotated[str | None, typer.Option(help="What clients call it; the folder's name if not given.")]
Previews = Annotated[bool, typer.Option("--previews/--no-previews", help="Show pictures while they are drawn.")]
