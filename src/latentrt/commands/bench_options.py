"""What `latentrt bench` can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Source = Annotated[
    Path | None,
    typer.Option(metavar="CHECKPOINT", help="What the bundle was exported from; the peers run the same weights."),
]
Against = Annotated[
    str | None, typer.Option(metavar="NAME,...", help="Peers, such as torch,torch-bf16; docs/bench.md lists them.")
]
Engines = Annotated[
    list[str] | None, typer.Option("--engine", help="An engine library of latentrt's; may be given again.")
]
Precision = Annotated[Literal["fp32", "fp16", "bf16"] | None, typer.Option(help="That latentrt's engines compute in.")]
Size = Annotated[str | None, typer.Option(metavar="WxH", help="Of the pictures; the model's own if not given.")]
Steps = Annotated[int, typer.Option(help="Denoising steps.")]
Sampler = Annotated[
    Literal["euler", "ddim", "dpmpp_2m"], typer.Option(help="How to step: one that all contestants know.")
]
GuidanceScale = Annotated[float, typer.Option(help="Strength of the prompt; 1 or less turns guidance off.")]
Prompts = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A prompt a line, in place of the small set that comes with it.")
]
Seed = Annotated[int, typer.Option(help="Of the first prompt's noise; the next prompt's is one more.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Turns that each contestant takes.")]
Pictures = Annotated[int | None, typer.Option(min=1, help="That count in each turn.")]
ColdStarts = Annotated[int | None, typer.Option(min=0, help="Processes started for one picture each.")]
Calls = Annotated[int | None, typer.Option(min=0, help="Of each network that count in each turn.")]
Batch = Annotated[str | None, typer.Option(metavar="N,...", help="Pictures drawn at once, for the batch curve.")]
Concurrency = Annotated[
    str | None, typer.Option(metavar="N,...", help="Clients that ask at once, for the concurrency curve.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="That every contestant is kept to.")]
TimeLimit = Annotated[float, typer.Option(min=1, help="Seconds that one order to a contestant may take.")]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "--environment", metavar="NAME=PYTHON", help="Run a contestant in this Python, not in one made for it."
    ),
]
Cache = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Of environments and converted models; ~/.cache/latentrt/bench.")
]
Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where results, pictures and report go.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Throw away what the folder has of an earlier trial.")]
Baseline = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A results.json to hold this run against; exit code 1 if it fails.")
]
MaxSlowdown = Annotated[
    str | None, typer.Option(metavar="5%", help="That a picture may take longer than the baseline's.")
]
MaxMemoryGrowth = Annotated[str | None, typer.Option(metavar="10%", help="That the peak may be above the baseline's.")]
MinPsnr = Annotated[float | None, typer.Option(metavar="DB", help="Of the worst picture against the reference.")]
MinSsim = Annotated[float | None, typer.Option(help="Of the worst picture against the reference.")]
OtherMachine = Annotated[bool, typer.Option("--other-machine", help="Take a baseline of another machine too.")]
