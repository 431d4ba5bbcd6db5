"""Which shapes an engine takes: for each free dimension of its component a range, or one number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated

import msgspec

from .bundle import Bundle
from .errors import InputError
from .manifest import TEXT_ENCODER, UNET
from .options import BuildOptions
from .size import Size, check_size, pixels_per_unit
from .tensor import TensorSpec, free_names, resolve_shape

ANY = "any"  # the profile in the key of an engine that takes every shape
ROWS = "rows"  # the dimension that a call may be filled up in, or split
MAX_TEXTS = 8  # rows of one call of the text encoder: the prompts of four guided pictures
Shape = tuple[int, ...]
_Length = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


class Range(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The lengths that a free dimension may have; `usual` is the one to be fastest at."""

    least: _Length
    usual: _Length
    most: _Length

    def __str__(self) -> str:
        return str(self.usual) if self.least == self.most else f"{self.least}-{self.most} (usually {self.usual})"


def exactly(length: int) -> Range:
    """A range of one."""
    return Range(least=length, usual=length, most=length)


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A range for each free dimension of a component, by its name."""

    dimensions: dict[str, Range]

    @property
    def static(self) -> bool:
        """Whether it holds a single shape: then a call can be captured as a CUDA graph."""
        return all(span.least == span.most for span in self.dimensions.values())

    def holds(self, bound: Mapping[str, int]) -> bool:
        """Whether it takes free dimensions of these lengths."""
        return all(span.least <= bound[name] <= span.most for name, span in self.dimensions.items())

    def shapes(self, spec: TensorSpec) -> tuple[Shape, Shape, Shape]:
        """The least, usual and greatest shape of a tensor."""
        ends = ("least", "usual", "most")
        least, usual, most = (
            resolve_shape(spec.shape, {name: getattr(span, end) for name, span in self.dimensions.items()})
            for end in ends
        )
        return least, usual, most

    def __str__(self) -> str:
        return " ".join(f"{name}={span}" for name, span in sorted(self.dimensions.items()))


def holds_but_rows(profile: Profile, bound: Mapping[str, int]) -> bool:
    """Whether a profile takes free dimensions of these lengths, whatever the rows."""
    return profile.holds({**bound, ROWS: profile.dimensions[ROWS].usual})


def profiles_for(bundle: Bundle, component: str, options: BuildOptions) -> tuple[Profile, ...]:
    """The profiles of a component for the sizes, rows and text lengths that are asked for; narrow ones, one for each.

    Without a size it is the model's own. The text encoder takes 1 to 8 rows; every other component but the UNet, one.

    Raises:
        InputError: the model does not take such a size.
    """
    free = free_names(bundle.component(component).inputs)
    own = bundle.manifest.model.default_size
    for size in options.sizes:
        check_size(size, bundle.manifest.model.size_multiple)
    rows = [exactly(count) for count in options.rows] if component == UNET else [_texts_or_one(component)]
    tokens = [exactly(length) for length in options.tokens] if "tokens" in free else [None]
    sizes: Sequence[Size | None] = (options.sizes or ((own, own),)) if "height" in free else [None]
    return tuple(
        Profile(dimensions=_dimensions(bundle, component, row, size, length))
        for size, length, row in product(sizes, tokens, rows)
    )


def the_one_profile(bundle: Bundle, component: str, options: BuildOptions, words: str) -> Profile:
    """The profile of an engine that holds a single shape; `words` say so in a refusal of several.

    Raises:
        InputError: more than one is asked for, or the model does not take such a size.
    """
    profiles = profiles_for(bundle, component, options)
    if len(profiles) > 1:
        raise InputError(
            f"{words}: give one --size, one of --rows and one of --tokens, and build once for each; they serve side by "
            "side"
        )
    return profiles[0]


def _texts_or_one(component: str) -> Range:
    return Range(least=1, usual=2, most=MAX_TEXTS) if component == TEXT_ENCODER else exactly(1)


def _dimensions(
    bundle: Bundle, component: str, rows: Range, size: Size | None, tokens: Range | None
) -> dict[str, Range]:
    found = {"rows": rows}
    if tokens is not None:
        found["tokens"] = tokens
    if size is not None:
        for axis, side in zip(("width", "height"), size, strict=True):
            found[axis] = exactly(side // pixels_per_unit(bundle, component, axis))
    return found


def profile_text(profiles: Sequence[Profile]) -> str:
    """All profiles of an engine, as its key has them."""
    return "; ".join(map(str, profiles))
