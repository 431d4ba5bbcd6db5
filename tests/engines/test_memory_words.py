"""Amounts of memory in words."""

from __future__ import annotations

import pytest

from latentrt.engines.errors import InputError
from latentrt.engines.memory_words import parse_memory, told


@pytest.mark.parametrize(
    ("words", "amount"),
    [("4GB", 4 * 10**9), ("1.5GiB", 3 * 2**29), ("800MB", 800 * 10**6), ("512MiB", 2**29), ("0.001MB", 1000)],
)
def test_amounts(words: str, amount: int) -> None:
    assert parse_memory(words) == amount


@pytest.mark.parametrize("words", ["4", "4gb", "4 GB", "GB", "-1GB", "0GB", "1e3MB", "4GB\n", "1,5GB", "٤GB", "4KB"])
def test_anything_else_is_refused(words: str) -> None:
    with pytest.raises(InputError, match="a number and MB, GB, MiB or GiB, such as 4GB"):
        parse_memory(words)


def test_amounts_are_told_in_one_unit_and_never_as_less_than_they_are() -> None:
    assert [told(amount) for amount in (1, 999_000_001, 1_234_000_000)] == ["1 MB", "1000 MB", "1.23 GB"]
