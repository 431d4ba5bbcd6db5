"""`latentrt generate`: draw, with a bar, and write PNG files whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from latentrt.engines.atomic import new_file
from latentrt.engines.bundle import Bundle
from latentrt.engines.choice import Wanted
from latentrt.engines.errors import InputError
from latentrt.runtime.drawing import Result
from latentrt.runtime.picture import png_bytes
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.prompt.textual_inversion import path_and_token
from latentrt.runtime.request import Request, plan
from latentrt.runtime.stream import Stream

from .memory import peak_line, planned_line
from .printing import one_line

FLAGGED = "the safety checker found unsafe content in the picture; try another prompt or seed"


@dataclass(frozen=True)
class Switches:
    """What may be opened, and what is looked at before a picture is given out."""

    wanted: Wanted
    engine_dir: Path | None = None
    safety_checker: bool = True
    tile: int | None = None
    memory: int | None = None


def generate_command(
    console: Console,
    path: Path,
    request: Request,
    output: Path,
    switches: Switches,
    embeddings: Sequence[str] = (),
) -> None:
    """Draw `request` and write its pictures; prints each file's name on standard output.

    Each of `embeddings` is the path of a textual inversion, or TOKEN=PATH.
    """
    if output.suffix.lower() != ".png":
        raise InputError(f"cannot write {output}: pictures are PNG files; give a name that ends in .png")
    wanted = switches.wanted
    planned = plan(request, Bundle.open(path).manifest)  # before engines are opened, which may take seconds
    names = _file_names(output, request.num_images_per_prompt)
    with ExitStack() as stack:
        places = [stack.enter_context(new_file(name)) for name in names]
        for place in places:
            place.touch()  # what cannot be written is known before any work is done
        opened = Pipeline.open(
            path,
            engine=wanted.engine,
            precision=wanted.precision,
            engine_dir=switches.engine_dir,
            device=wanted.device,
            tile=switches.tile,
            memory=switches.memory,
            safety_checker=switches.safety_checker,
            allow_unverified=wanted.allow_unverified,
        )
        pipeline = stack.enter_context(opened)
        if pipeline.chosen_because:
            console.print(one_line(pipeline.chosen_because), markup=False)
        for word in embeddings:
            pipeline.load_textual_inversion(*path_and_token(word))
        fits = None if pipeline.residency is None else pipeline.residency.plan(request, planned)
        if fits is not None:
            console.print(planned_line(fits, planned), markup=False)
        result = _draw(console, Stream(pipeline, request), planned.schedule.steps)
        for place, image in zip(places, result.images, strict=True):
            place.write_bytes(png_bytes(image))
        if fits is not None and pipeline.residency is not None:
            console.print(peak_line(fits, pipeline.residency.peak()), markup=False)
    for name, flagged in zip(names, result.flagged or [False] * len(names), strict=True):
        if flagged:
            console.print(f"flagged: {one_line(str(name))} is black: {FLAGGED}", markup=False)
        print(name)


def chosen_spacing(spacing: str | None, karras: bool) -> str | None:
    """`--karras` is short for `--spacing karras`."""
    if karras and spacing not in {None, "karras"}:
        raise InputError(f"--karras and --spacing {spacing} are two spacings; give one of them")
    return "karras" if karras else spacing


def _file_names(output: Path, count: int) -> list[Path]:
    return [output] if count == 1 else [output.with_stem(f"{output.stem}-{i + 1}") for i in range(count)]


def _draw(console: Console, stream: Stream, steps: int) -> Result:
    columns = (TextColumn("denoising"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=steps)
        for step in stream:
            progress.update(task, completed=step.index + 1)
    return stream.result()
