"""Pictures as files that say how they were made, PNG, JPEG or WebP; made in threads beside the event loop."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from PIL.Image import Image

from ..drawing import Result
from ..exif import exif_of
from ..picture import png_bytes

OutputFormat: TypeAlias = Literal["png", "jpeg", "webp"]
QUALITY = 90  # of JPEG and WebP, 0 to 100, where the client asks for none
THREADS = 2  # Pillow lets go of the interpreter while it encodes

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished picture: `data` is the file, and `image` the same as 8-bit RGB; black where `flagged`.

    The file carries `facts`, how the picture was made; not as JPEG or WebP where they are longer than EXIF may be.
    """

    data: bytes
    image: Image
    facts: dict[str, str]
    seed: int
    flagged: bool


class EncodingPool:
    """The threads that make files of pictures, and previews."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="latentrt-encoding")

    async def run(self, action: Callable[[], _T]) -> _T:
        """Do `action` in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, action)

    def close(self) -> None:
        """Let the threads end; what has not begun is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def encoded(
    image: Image, output_format: OutputFormat = "png", quality: int = QUALITY, facts: Mapping[str, str] | None = None
) -> bytes:
    """The image as the bytes of a file; `quality` is that of JPEG and WebP, as are `facts`: a PNG has the image's."""
    if output_format == "png":
        return png_bytes(image)
    stream = io.BytesIO()
    exif = None if facts is None else exif_of(facts)
    image.save(stream, format=output_format.upper(), quality=quality, **({} if exif is None else {"exif": exif}))
    return stream.getvalue()


def picture_of(result: Result, seed: int, output_format: OutputFormat, quality: int) -> Picture:
    """The one picture of a result, as a file."""
    [image], [facts] = result.images, result.facts
    flagged = result.flagged is not None and result.flagged[0]
    return Picture(encoded(image, output_format, quality, facts), image, facts, seed, flagged)
