"""Sizes of pictures: as people write them, as a model takes them, and as the free dimensions of a component."""

from __future__ import annotations

from .bundle import Bundle
from .errors import InputError
from .manifest import is_encoder
from .tensor import split_dimension

MAX_SIZE = 4096  # pixels on a side
Size = tuple[int, int]  # (width, height) in pixels


def parse_size(word: str) -> Size:
    """`"768x512"` -> (768, 512).

    Raises:
        InputError: not a size.
    """
    width, times, height = word.partition("x")
    if not (times and all(side.isascii() and side.isdecimal() and len(side) <= 5 for side in (width, height))):
        raise InputError(f"a size is WIDTHxHEIGHT in pixels, such as 768x512; got {word!r}")
    return int(width), int(height)


def check_size(size: Size, multiple: int) -> None:
    """Check that a model whose sides are multiples of `multiple` pixels takes this size.

    Raises:
        InputError: it does not.
    """
    for side in size:
        if side % multiple or not multiple <= side <= MAX_SIZE:
            expected = f"this model takes multiples of {multiple} pixels up to {MAX_SIZE}"
            raise InputError(f"size {size[0]}x{size[1]}: {expected}; got {side}")


def pixels_per_unit(bundle: Bundle, component: str, axis: str) -> int:
    """Pixels of the picture for one unit of the free dimension: 32 for a UNet whose latents are `4*height` high."""
    factors = {
        split_dimension(dimension)
        for spec in bundle.component(component).inputs
        for dimension in spec.shape
        if isinstance(dimension, str)
    }
    (factor,) = (factor for factor, name in factors if name == axis)
    return factor if is_encoder(component) else factor * bundle.manifest.model.vae_scale_factor
