"""From decoder output to a PNG that says how it was made."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from latentrt.engines.errors import InputError, NanPictureError

PREFIX = "latentrt:"  # of each text key, so that other programs' texts are told apart


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
    """How the picture in a PNG file was made.

    Raises:
        InputError: it is not a PNG, or latentrt did not write it.
    """
    try:
        with Image.open(file, formats=["PNG"]) as image:
            image.load()
            texts: dict[str, Any] = image.text  # type: ignore[attr-defined]
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, OSError, ValueError) as error:
        raise InputError(f"{file} is not a readable PNG picture: {error}") from error
    facts = {key.removeprefix(PREFIX): str(value) for key, value in texts.items() if key.startswith(PREFIX)}
    if not facts:
        raise InputError(f"{file} carries no text of latentrt: it was made, or rewritten, by another program")
    return facts
