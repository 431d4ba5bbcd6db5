"""Token ids -> chunks of 75, as the web UIs fill them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..tokenizer import ROOM

COMMA_BACKTRACK = 20  # tokens: the web UIs' default of `comma_padding_backtrack`


@dataclass(frozen=True)
class Unit:
    """What is never torn apart: one token of the vocabulary, or all vectors of a textual inversion; and its weight."""

    ids: tuple[int, ...]
    weight: float = 1.0


Chunk = tuple[Unit, ...]  # at most 75 ids


def first_chunk(sections: Sequence[Iterable[Unit]]) -> tuple[list[Chunk], list[Unit]]:
    """The first 75 ids of the first section, a textual inversion cut too, as diffusers cuts a prompt; and the rest."""
    ids = [Unit((i,), unit.weight) for unit in sections[0] for i in unit.ids]
    rest = [unit for section in sections[1:] for unit in section]
    return [tuple(ids[:ROOM])], ids[ROOM:] + rest


def fill_chunks(sections: Sequence[Iterable[Unit]], comma: int) -> list[Chunk]:
    """All units in chunks of 75 ids, at least one chunk; a section after the first begins a chunk.

    As `tokenize_line` of the web UIs' `modules/sd_hijack_clip.py`: where a chunk is full, and a comma is among its
    last 20 ids, what follows the comma moves on to the next; so does a textual inversion that finds no room (which
    there loses its vectors when it is moved because of a comma, and here does not).
    """
    filling = _Filling(comma)
    for number, section in enumerate(sections):
        if number:
            filling.next_chunk()
        for unit in section:
            filling.add(unit)
    if filling.units or not filling.chunks:
        filling.next_chunk()
    return filling.chunks


class _Filling:
    """Chunks that are done, and the one that is being filled."""

    def __init__(self, comma: int) -> None:
        self.chunks: list[Chunk] = []
        self.units: list[Unit] = []
        self._length = 0  # ids in `units`
        self._comma = (comma,)
        self._after_comma: int | None = None  # index in `units` of what follows the last comma

    def next_chunk(self) -> None:
        self.chunks.append(tuple(self.units))
        self._start([])

    def add(self, unit: Unit) -> None:
        if unit.ids != self._comma and self._length == ROOM:
            self._move_back_to_comma()
        if self._length + len(unit.ids) > ROOM:
            self.next_chunk()
        self.units.append(unit)
        self._length += len(unit.ids)
        if unit.ids == self._comma:
            self._after_comma = len(self.units)

    def _move_back_to_comma(self) -> None:
        if self._after_comma is None:
            return
        moved = self.units[self._after_comma :]
        if _length(moved) + 1 <= COMMA_BACKTRACK:
            del self.units[self._after_comma :]
            self.next_chunk()
            self._start(moved)

    def _start(self, units: list[Unit]) -> None:
        self.units, self._length, self._after_comma = units, _length(units), None


def _length(units: Iterable[Unit]) -> int:
    return sum(len(unit.ids) for unit in units)
