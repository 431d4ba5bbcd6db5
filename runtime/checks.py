"""Checks that several options share."""

from __future__ import annotations

from typing import Any

from latentrt.engines.errors import InputError


def check_count(name: str, value: Any, least: int, most: int) -> None:
    """Check that an option is a whole number in a range.

    Raises:
        InputError: names the option, what it expects and what it got.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name} is a whole number from {least} to {most}; got {value!r}")
