"""What `latentrt generate` can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

GeneratePrompt = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="What to draw; without it, anything.", show_default=False)
]
NegativePrompt = Annotated[str, typer.Option(help="What not to draw.")]
Steps = Annotated[int, typer.Option(help="Denoising steps.")]
GuidanceScale = Annotated[float, typer.Option(help="Strength of the prompt; 1 or less turns guidance off.")]
GuidanceInterval = Annotated[
    str | None, typer.Option(metavar="LO,HI", help="Noise levels (sigmas) that guidance is kept to.")
]
GuidanceRescale = Annotated[float, typer.Option(help="Share of the contrast that guidance may not add, 0 to 1.")]
Seed = Annotated[int, typer.Option(help="Seed of PyTorch's noise stream.")]
Width = Annotated[int | None, typer.Option(help="Pixels; the model's own size if not given.")]
Height = Annotated[int | None, typer.Option(help="Pixels; the model's own size if not given.")]
Images = Annotated[int, typer.Option("-n", "--num-images", help="Pictures to draw, all from one noise stream.")]
Sampler = Annotated[str, typer.Option(help="How to step; docs/samplers.md lists them.")]
Spacing = Annotated[
    str | None,
    typer.Option(help="leading, trailing, linspace, karras or exponential; the sampler's own if not given."),
]
Karras = Annotated[bool, typer.Option("--karras", help="The same as --spacing karras.")]
Timesteps = Annotated[
    str | None, typer.Option(metavar="T,T,...", help="The timesteps to step through, in place of --steps.")
]
Sigmas = Annotated[
    str | None, typer.Option(metavar="S,S,...,0", help="The noise levels to step through, in place of --steps.")
]
Eta = Annotated[float | None, typer.Option(help="Share of noise, 0 to 1 (ddim and tcd).")]
Noise = Annotated[
    str, typer.Option(help="PyTorch's stream on cpu, cuda, or a certain GPU: cuda:rtx4090, cuda:128x1536.")
]
SeedPerImage = Annotated[
    bool, typer.Option("--seed-per-image", help="Draw the pictures of -n from seed, seed + 1, ... instead.")
]
VariationSeed = Annotated[int, typer.Option(help="Seed of the noise that the start noise is turned towards.")]
VariationStrength = Annotated[float, typer.Option(help="How far, from 0 (not at all) to 1.")]
PromptSyntax = Annotated[
    Literal["plain", "weighted"],
    typer.Option(help="weighted: (word:1.3), [word] and BREAK mean what they mean in the web UIs."),
]
MaxPromptChunks = Annotated[int, typer.Option(help="Chunks of 75 tokens that a prompt may fill; the rest is cut.")]
ClipSkip = Annotated[int | None, typer.Option(help="Last layers of the text encoder to leave out.")]
Embedding = Annotated[
    list[str] | None,
    typer.Option(metavar="[TOKEN=]FILE", help="A textual inversion (.safetensors); may be given again."),
]
Decoder = Annotated[str | None, typer.Option(help="A decoder of the bundle.")]
SafetyChecker = Annotated[
    bool, typer.Option("--safety-checker/--no-safety-checker", help="Check pictures, where the bundle can.")
]
GenerateOutput = Annotated[Path, typer.Option("-o", "--output", metavar="PNG", help="Where the picture goes.")]
