"""Add figures of quality to a trial that has ended, from the pictures that lie beside its results.

`python -m latentrt.benchmarks.quality.measure --captions 24 > captions.txt` writes prompts for `latentrt bench
--prompts`; `python -m latentrt.benchmarks.quality.measure FOLDER` then adds adherence, with `--clip-model FOLDER` the
CLIP score, and with `--band "CLIP score=31.6,31.9"` exits 1 where a contestant's figure lies outside.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentrt.engines.errors import CheckFailedError, InputError, LatentrtError
from latentrt.export.demo.scenes import plain_caption

from ..report import write_report
from ..trial.results import Results, read_results, write_results
from .adherence import ADHERENCE, adherence, held_out, scenes_of
from .band import Band


def main() -> None:
    """Write captions, or measure a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="of results.json and its pictures")
    parser.add_argument("--captions", type=int, help="print so many captions that training never showed")
    parser.add_argument("--clip-model", type=Path, metavar="FOLDER", help="a CLIPModel that save_pretrained wrote")
    parser.add_argument("--band", action="append", default=[], metavar="NAME=LOW,HIGH", help="may be given again")
    given = parser.parse_args()
    try:
        if given.captions is not None:
            print("\n".join(map(plain_caption, held_out(given.captions))))
            return
        if given.folder is None:
            parser.error("name the folder of a results.json")
        _measure(given.folder, given.clip_model, [Band.parse(text) for text in given.band])
    except LatentrtError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _measure(folder: Path, clip_model: Path | None, bands: Sequence[Band]) -> None:
    results = with_quality(read_results(folder / "results.json"), folder, clip_model)
    write_results(results, folder / "results.json")
    write_report(results, folder)
    check_bands(results, bands)


def with_quality(results: Results, folder: Path, clip_model: Path | None = None) -> Results:
    """The same results with figures of each contestant's pictures, which are read from `folder`.

    Adherence where every prompt is a caption of the demo model that training never showed; the CLIP score where there
    is a model.

    Raises:
        InputError: a picture is not there, or the model cannot be opened.
    """
    prompts = results.settings.prompts
    scenes = scenes_of(prompts)
    found = dict(results.contestants)
    for name, files in results.pictures.items():
        if not files:
            continue
        pictures = [_read(folder / file) for file in files]
        quality = dict(found[name].quality)
        if scenes is not None:
            quality[ADHERENCE] = adherence(pictures, scenes)["all"]
        if clip_model is not None:
            from .clip_score import CLIP_SCORE, clip_score  # noqa: PLC0415 - it imports PyTorch

            quality[CLIP_SCORE] = clip_score(pictures, prompts, clip_model)
        found[name] = msgspec.structs.replace(found[name], quality=quality)
    return msgspec.structs.replace(results, contestants=found)


def check_bands(results: Results, bands: Sequence[Band]) -> None:
    """Hold every contestant that drew to bands.

    Raises:
        CheckFailedError: a figure lies outside of its band, or was not measured; it names all of them.
    """
    wrong = [
        f"{name}: {reason}"
        for name in results.pictures
        for band in bands
        if (reason := band.check(results.contestants[name].quality)) is not None
    ]
    if wrong:
        raise CheckFailedError("; ".join(wrong))


def _read(file: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is no picture of the trial: {error}; measure it again") from error


if __name__ == "__main__":
    main()
