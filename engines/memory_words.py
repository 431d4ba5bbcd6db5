"""Amounts of memory: as people write them, and as they are told."""

from __future__ import annotations

import re

from .errors import InputError

_AMOUNT = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(MB|GB|MiB|GiB)")
_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


def parse_memory(words: str) -> int:
    """`"4GB"` -> 4_000_000_000; MB and GB are decimal, MiB and GiB powers of two.

    Raises:
        InputError: not an amount of memory.
    """
    match = _AMOUNT.fullmatch(words)
    if match is None or not float(match[1]):
        raise InputError(
            f"an amount of memory is a number and MB, GB, MiB or GiB, such as 4GB or 1.5GiB; got {words!r}"
        )
    return int(float(match[1]) * _UNITS[match[2]])


def told(amount: int) -> str:
    """`1_234_000_000` -> "1.23 GB"; below 1 GB in whole MB."""
    return f"{amount / 1e9:.2f} GB" if amount >= 10**9 else f"{-(-amount // 10**6)} MB"
