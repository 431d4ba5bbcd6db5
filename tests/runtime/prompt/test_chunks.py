"""Chunks as `tokenize_line` of the web UIs' sd_hijack_clip.py fills them, case by case of its rules."""

from __future__ import annotations

import pytest

from latentrt.runtime.prompt.chunks import Unit, fill_chunks, first_chunk

COMMA = 267


def words(*runs: int | tuple[int, ...]) -> list[Unit]:
    """A number is so many words, 0 is a comma, a tuple is a textual inversion; words are numbered on from 1000."""
    units, next_id = [], 1000
    for run in runs:
        if isinstance(run, tuple):
            units.append(Unit(run))
        elif run == 0:
            units.append(Unit((COMMA,)))
        else:
            units += [Unit((i,)) for i in range(next_id, next_id + run)]
            next_id += run
    return units


def lengths(*sections: list[Unit]) -> list[int]:
    chunks = fill_chunks(sections, COMMA)
    ids = [i for chunk in chunks for unit in chunk for i in unit.ids]
    assert ids == [i for section in sections for unit in section for i in unit.ids]  # nothing lost, nothing moved about
    return [sum(len(unit.ids) for unit in chunk) for chunk in chunks]


NEW = tuple(range(50_000, 50_010))  # ten vectors


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ([words()], [0]),
        ([words(75)], [75]),
        ([words(76)], [75, 1]),
        ([words(200)], [75, 75, 50]),
        # a comma among the last 20 tokens of a full chunk: what follows it moves on
        ([words(60, 0, 30)], [61, 30]),
        ([words(55, 0, 30)], [56, 30]),  # the comma is the 20th from the end
        ([words(54, 0, 30)], [75, 10]),  # the 21st
        ([words(74, 0, 5)], [75, 5]),
        ([words(75, 0, 5)], [75, 6]),  # a comma itself is not moved back
        ([words(60, 0, 14)], [75]),  # nothing follows: nothing moves
        ([words(60, 0, 74, 0, 5)], [61, 75, 5]),
        # BREAK
        ([words(3), words(4)], [3, 4]),
        ([[], words(4)], [0, 4]),
        ([words(4), []], [4]),
        ([words(4), [], words(2)], [4, 0, 2]),
        ([words(80), words(4)], [75, 5, 4]),
        # a textual inversion stays whole
        ([words(65, NEW)], [75]),
        ([words(66, NEW)], [66, 10]),
        ([words(60, 0, 4, NEW, 5)], [61, 19]),  # and moves with what follows a comma
    ],
)
def test_lengths(sections: list[list[Unit]], expected: list[int]) -> None:
    assert lengths(*sections) == expected


def test_weights_go_with_their_tokens() -> None:
    section = [Unit(unit.ids, float(i)) for i, unit in enumerate(words(60, 0, 30))]
    first, second = fill_chunks([section], COMMA)
    assert [unit.weight for unit in (*first, *second)] == [float(i) for i in range(91)]


def test_one_chunk_is_cut_and_not_filled() -> None:
    [chunk], rest = first_chunk([words(60, 0, 9, NEW, 3), words(2)])
    assert [i for unit in chunk for i in unit.ids][-5:] == list(NEW[:5])
    assert len(chunk) == 75
    assert [i for unit in rest for i in unit.ids][:5] == list(NEW[5:])
    assert len(rest) == 5 + 3 + 2
