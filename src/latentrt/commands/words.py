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


def share(option: str, words: str | None) -> float | None:
    """`"5%"` or `"0.05"` -> 0.05."""
    if words is None:
        return None
    try:
        value = float(words.removesuffix("%")) / (100 if words.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 100:  # NaN and infinity are refused too
        raise InputError(f"{option} is a share, such as 5%; got {words!r}")
    return value
