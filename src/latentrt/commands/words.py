"""Options that are several values in one word."""

from __future__ import annotations

from latentrt.engines.errors import InputError


def numbers(option: str, words: str | None) -> tuple[float, ...] | None:
    """The numbers of an option such as `--timesteps 999,749,499`."""
    try:
        return None if words is None else tuple(float(word) for word in words.split(","))
    except ValueError:
        raise InputError(f"{option} is a list of numbers with commas between; got {words!r}") from None


def whole_numbers(option: str, words: str) -> tuple[int, ...]:
    """The numbers of an option such as `--rows 2,4,8`."""
    try:
        return tuple(int(word) for word in words.split(","))
    except ValueError:
        raise InputError(f"{option} is a list of whole numbers with commas between; got {words!r}") from None
