"""From decoder output to a PNG that says how it was made, and back from a file to what it says."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from latentrt.engines.errors import InputError, NanPictureError

from .exif import exif_facts

PREFIX = "latentrt:"  # of each text key, so that other programs' texts are told apart
# what Pillow raises on files that are no pictures, or damaged
_UNREADABLE = (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, OSError, ValueError, struct.error)


def check_finite(arrays: NDArray[np.float32] | Sequence[NDArray[np.float32]], source: str) -> None:
    """Check pictures or latents (n, ...) that `source` gave.

    Raises:
        NanPictureError: one of them holds NaN or infinity; it says which.
    """
    for index, array in enumerate(arrays):
        if not np.isfinite(array).all():
            which = "" if len(arrays) == 1 else f"picture {index + 1} of {len(arrays)}: "
            raise NanPictureError(
                f"{which}{source} gave NaN or infinity: no picture; "
                "try another engine, sampler or decoder, and 'latentrt inspect' to check the bundle"
            )


def to_image(decoded: NDArray[np.float32], facts: Mapping[str, str]) -> Image.Image:
    """One decoded picture, (3, height, width) in [-1, 1], as an 8-bit RGB image that carries `facts` when saved as PNG.

    Raises:
        NanPictureError: it holds NaN or infinity; a black picture never stands in for one.
    """
    check_finite(decoded[None], "the decoder")
    unit = np.clip(decoded * np.float32(0.5) + np.float32(0.5), 0, 1).transpose(1, 2, 0)
    image = Image.fromarray((unit * np.float32(255)).round().astype(np.uint8))
    info = PngInfo()
    for key, value in facts.items():
        info.add_itxt(PREFIX + key, value)
    # Pillow takes a PNG's texts from the call alone; bound here, a plain `image.save("out.png")` writes them
    image.save = partial(image.save, pnginfo=info)  # type: ignore[method-assign]
    return image


def png_bytes(image: Image.Image) -> bytes:
    """The image as the bytes of a PNG file, its facts included."""
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def read_facts(file: Path) -> dict[str, str]:
    """How the picture in a file was made: a PNG, or a JPEG or WebP of the server's.

    Raises:
        InputError: it is none of these, or latentrt did not write it.
    """
    try:
        # Pillow warns of EXIF that is no good: there are no facts then
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=["PNG", "JPEG", "WEBP"]) as image:
            image.load()
            if image.format != "PNG":
                return _told(file, exif_facts(image.getexif()))
            texts: dict[str, Any] = image.text  # type: ignore[attr-defined]
    except _UNREADABLE as error:
        raise InputError(f"{file} is not a readable PNG, JPEG or WebP picture: {error}") from error
    return _told(file, {key.removeprefix(PREFIX): str(one) for key, one in texts.items() if key.startswith(PREFIX)})


def _told(file: Path, facts: dict[str, str]) -> dict[str, str]:
    if not facts:
        raise InputError(f"{file} carries no text of latentrt: it was made, or rewritten, by another program")
    return facts
