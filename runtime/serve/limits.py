"""How large a picture may be, how long its prompt, how many steps: checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latentrt.engines.errors import InputError
from latentrt.engines.manifest import Manifest

from .settings import ServeSettings

MAX_GUIDANCE = 100.0  # far beyond any use; much more leaves float32, and gives NaN


def check_orders(orders: Sequence[Mapping[str, Any]], settings: ServeSettings, manifest: Manifest) -> None:
    """Check the number of pictures, and of each its prompts, steps and size; `plan` checks the rest.

    Raises:
        InputError: names what is too much, what this server takes, and what came.
    """
    check_count(len(orders), settings)
    for order in orders:
        for name in ("prompt", "negative_prompt"):
            _check("characters", name, len(order.get(name) or ""), settings.max_prompt_chars)
        _check("steps", "num_inference_steps", order.get("num_inference_steps"), settings.max_steps)
        for name in ("timesteps", "sigmas"):
            _check("steps", name, len(order.get(name) or ()), settings.max_steps)
        scale = order.get("guidance_scale", 1.0)
        if isinstance(scale, int | float) and scale > MAX_GUIDANCE:
            raise InputError(f"guidance_scale is at most {MAX_GUIDANCE:g} on this server; got {scale!r}")
        _check_pixels(order, settings, manifest)


def check_count(count: int, settings: ServeSettings) -> None:
    """Check the number of pictures alone, for whoever would have to make an order for each first.

    Raises:
        InputError: says how many this server takes.
    """
    most = min(settings.max_images, settings.capacity)
    if not 1 <= count <= most:
        raise InputError(f"n is a number of pictures from 1 to {most} on this server; got {count}")


def _check(unit: str, name: str, value: object, most: int) -> None:
    if isinstance(value, int) and value > most:
        raise InputError(f"{name} has at most {most} {unit} on this server; got {value}")


def _check_pixels(order: Mapping[str, Any], settings: ServeSettings, manifest: Manifest) -> None:
    side = manifest.model.default_size
    width, height = (side if order.get(name) is None else order[name] for name in ("width", "height"))
    if isinstance(width, int) and isinstance(height, int) and width * height > settings.max_pixels:
        raise InputError(f"width x height is at most {settings.max_pixels} pixels on this server; got {width}x{height}")
