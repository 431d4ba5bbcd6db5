"""`make demo`: the demo checkpoint -> a bundle -> engines -> two captioned contact sheets, each part timed.

It uses the `latentrt` commands that a newcomer would type next, and prints them.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import track

from latentrt.cli import run
from latentrt.commands.guard import guarded
from latentrt.export.demo.config import CHECKPOINT
from latentrt.runtime.picture import to_image
from latentrt.runtime.pipeline import Pipeline

from .demo_model import VAES
from .quality.adherence import GUIDANCE, SAMPLER, STEPS

BUNDLE = Path("build/demo-bundle")
SHEET, DECODER_SHEET = Path("demo.png"), Path("demo-decoders.png")
PROMPTS = (
    "a large red circle on a blue background",
    "a small yellow star on a black background",
    "a big green triangle against an orange backdrop",
    "a white diamond on a purple background",
    "a black cross in front of a yellow background",
    "a tiny blue square on a white background",
    "a red star to the left of a white circle on a green background",
    "an orange square above a black diamond on a blue background",
    "a huge purple star on a white background",
    "a little white circle on a red background",
    "a yellow triangle below a blue cross on a white background",
    "a large orange diamond on a black background",
)
COLUMNS, TILE, CAPTION, MARGIN = 4, 128, 34, 10
INK, PAPER = (40, 40, 40), (250, 250, 248)
SEED = 7

console = Console(stderr=True, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the whole path; the exit code is the first failing command's."""
    seconds: dict[str, float] = {}
    export = ["export", str(_shown(CHECKPOINT / "demo.safetensors")), "-o", str(BUNDLE), "--overwrite"]
    for name, path in VAES.items():
        export += ["--vae", f"{name}={_shown(path)}"]
    BUNDLE.parent.mkdir(exist_ok=True)
    _timed("export", seconds, lambda: _command(export))
    _timed("build", seconds, lambda: _command(["build", str(BUNDLE)]))
    _timed("generate", seconds, lambda: _exit_on_failure(guarded(_sheets)))
    print()
    for part, taken in seconds.items():
        print(f"{part:10} {taken:6.1f} s")
    print(f"{SHEET.resolve()}\n{DECODER_SHEET.resolve()}")


def _timed(part: str, seconds: dict[str, float], do: Callable[[], object]) -> None:
    started = time.perf_counter()
    do()
    seconds[part] = time.perf_counter() - started


def _command(words: list[str]) -> None:
    console.print(f"$ latentrt {shlex.join(words)}", markup=False)
    _exit_on_failure(run(words))


def _exit_on_failure(code: int) -> None:
    if code:
        sys.exit(code)


def _shown(path: Path) -> Path:
    """The path as a newcomer would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _sheets() -> None:
    with Pipeline.open(BUNDLE) as pipeline:
        decoders = pipeline.bundle.manifest.decoders
        rows: dict[str, list[Image.Image]] = {name: [] for name in decoders}
        for index, prompt in enumerate(track(PROMPTS, "drawing", console=console)):
            options = {
                "num_inference_steps": STEPS,
                "sampler": SAMPLER,
                "seed": SEED + index,
                "guidance_scale": GUIDANCE,
            }
            result = pipeline.generate(prompt, **options)
            for name in decoders:
                rows[name].append(
                    to_image(pipeline.decode(result.latents, name)[0], result.facts[0] | {"decoder": name})
                )
    contact_sheet(rows["ft-mse"], list(PROMPTS), COLUMNS).save(SHEET, optimize=True)
    pictures = [rows[name][i] for i in range(COLUMNS) for name in decoders]
    names = [f"{name}: {PROMPTS[i]}" for i in range(COLUMNS) for name in decoders]
    contact_sheet(pictures, names, len(decoders)).save(DECODER_SHEET, optimize=True)


def contact_sheet(images: list[Image.Image], captions: list[str], columns: int) -> Image.Image:
    """The pictures in rows, each with its caption under it."""
    rows = -(-len(images) // columns)
    cell_width, cell_height = TILE + MARGIN, TILE + CAPTION + MARGIN
    sheet = Image.new("RGB", (columns * cell_width + MARGIN, rows * cell_height + MARGIN), PAPER)
    ink = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=10)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = MARGIN + index % columns * cell_width, MARGIN + index // columns * cell_height
        sheet.paste(image.resize((TILE, TILE)), (x, y))
        ink.multiline_text((x, y + TILE + 3), _wrapped(ink, caption, font), fill=INK, font=font, spacing=1)
    return sheet


def _wrapped(ink: ImageDraw.ImageDraw, caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if ink.textlength(longer, font) <= TILE:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
