"""The shapes of a component's calls for a picture."""

from __future__ import annotations

from .bundle import Bundle
from .manifest import MAX_TOKENS
from .size import Size, pixels_per_unit
from .tensor import free_names


def call_shapes(
    bundle: Bundle, component: str, size: Size, tokens: int = MAX_TOKENS, tile: int | None = None
) -> dict[str, int]:
    """The free dimensions of a call of one row for a picture of (width, height) pixels, in tiles of so many latents."""
    most = max(size) if tile is None else tile * bundle.manifest.model.vae_scale_factor
    bound = {"rows": 1, "tokens": tokens}
    for axis, pixels in zip(("width", "height"), size, strict=True):
        if axis in free_names(bundle.component(component).inputs):
            bound[axis] = min(pixels, most) // pixels_per_unit(bundle, component, axis)
    return bound
