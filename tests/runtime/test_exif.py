"""How a picture was made, in the EXIF of JPEG and WebP files: all of it, and in words that other programs read."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base

from latentrt.engines.errors import InputError
from latentrt.runtime.exif import MOST_BYTES, exif_facts, exif_of
from latentrt.runtime.picture import read_facts
from latentrt.runtime.serve.picture_files import encoded

FACTS = {
    "prompt": "ein roter Kreis: größer, 大きい 🔴",
    "negative_prompt": "blue",
    "seed": "7",
    "sampler": "dpmpp_2m",
    "steps": "20",
    "guidance_scale": "7.5",
    "size": "64x32",
    "bundle": "sha256:0",
}


def saved(folder: Path, file_format: Literal["jpeg", "webp"], facts: dict[str, str]) -> Path:
    file = folder / f"out.{file_format}"
    file.write_bytes(encoded(Image.new("RGB", (64, 32)), file_format, 90, facts))
    return file


@pytest.mark.parametrize("file_format", ["jpeg", "webp"])
def test_a_file_tells_all_facts(tmp_path: Path, file_format: Literal["jpeg", "webp"]) -> None:
    assert read_facts(saved(tmp_path, file_format, FACTS)) == FACTS


@pytest.mark.parametrize("file_format", ["jpeg", "webp"])
def test_the_comment_is_the_web_uis(tmp_path: Path, file_format: Literal["jpeg", "webp"]) -> None:
    with Image.open(saved(tmp_path, file_format, FACTS)) as image:
        comment = image.getexif().get_ifd(IFD.Exif)[Base.UserComment]
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be") == (
        "ein roter Kreis: größer, 大きい 🔴\nNegative prompt: blue\n"
        "Steps: 20, Sampler: dpmpp_2m, CFG scale: 7.5, Seed: 7, Size: 64x32"
    )


def test_the_comment_has_the_type_that_the_standard_gives_it() -> None:
    """UNDEFINED, 7: other readers take bytes of another type for numbers."""
    assert Base.UserComment.to_bytes(2, "big") + (7).to_bytes(2, "big") in (exif_of(FACTS) or b"")


def test_facts_that_are_longer_than_exif_may_be_are_left_out(tmp_path: Path) -> None:
    fits = next(n for n in range(22_000, 21_000, -1) if exif_of({"prompt": "a" * n}) is not None)
    longest = {"prompt": "a" * fits}
    assert MOST_BYTES - 8 <= len(exif_of(longest) or b"") <= MOST_BYTES
    assert read_facts(saved(tmp_path, "jpeg", longest)) == longest
    with pytest.raises(InputError, match="carries no text of latentrt"):
        read_facts(saved(tmp_path, "jpeg", {"prompt": "a" * (fits + 1)}))


@pytest.mark.parametrize("description", ["a holiday", "{}", "[1]", '{"latentrt": 3}', "[" * 50_000, None])
def test_what_others_wrote_is_no_fact(tmp_path: Path, description: str | None) -> None:
    exif = Image.Exif()
    if description is not None:
        exif[Base.ImageDescription] = description
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG", exif=exif)
    with Image.open(io.BytesIO(stream.getvalue())) as image:
        assert exif_facts(image.getexif()) == {}


def test_a_broken_exif_is_one_clear_error(tmp_path: Path) -> None:
    whole = saved(tmp_path, "jpeg", FACTS).read_bytes()
    start = whole.index(b"Exif\0\0")
    for place in range(start, start + 44):  # all of it before the facts
        file = tmp_path / "broken.jpeg"
        file.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        with suppress(InputError):
            assert read_facts(file).keys() <= FACTS.keys()
