r"""Weights in a prompt: `(word:1.3)`, `(word)`, `[word]`, BREAK, as the web UIs read them.

The rules are those of `parse_prompt_attention` in AUTOMATIC1111's `modules/prompt_parser.py`:

- `(text)` multiplies the weight of all in it by 1.1, `[text]` by 1 / 1.1, `(text:1.3)` by 1.3. They nest.
- A bracket that is never closed holds to the end; one that was never opened is text, as is a colon elsewhere.
- A backslash before a bracket or a backslash makes it text; before anything else it is dropped.
- Neighbours of equal weight are one text: `(un)(do)` is the word `undo`.
- The word BREAK, with the space around it, ends a chunk. Inside brackets it does too, and they stay open over it; the
  web UIs read it as a word there.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from latentrt.engines.errors import InputError

ROUND = 1.1
SQUARE = 1 / 1.1
MAX_WEIGHT = 1000.0  # beyond any use, and far from where float32 ends

_PART = re.compile(
    r"""
      \\ (?P<escaped> [\\()\[\]]? )
    | (?P<open> [(\[] )
    | : \s* (?P<weight> [+-]?[.\d]+ ) \s* \)
    | (?P<close> [)\]] )
    | [^\\()\[\]:]+ | :
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_CLOSED_BY = {"(": ")", "[": "]"}


@dataclass(frozen=True)
class Span:
    """A stretch of text, and how much it counts."""

    text: str
    weight: float = 1.0


Section = tuple[Span, ...]  # what stands between two BREAKs

_Piece = Span | None  # None is a BREAK


def parse_weights(prompt: str) -> tuple[Section, ...]:
    """A weighted prompt as spans, section by section; at least one section, which may be empty.

    Raises:
        InputError: a weight that is not a number, or one beyond 1000.
    """
    pieces: list[_Piece] = []
    opened: dict[str, list[int]] = {")": [], "]": []}  # by what closes it: where the bracket stands
    for part in _PART.finditer(prompt):
        text = part[0]
        if part["escaped"] is not None:
            pieces.append(Span(part["escaped"]))
        elif part["open"]:
            opened[_CLOSED_BY[text]].append(len(pieces))
        elif part["weight"] and opened[")"]:
            _multiply(pieces, opened[")"].pop(), _number(part["weight"]))
        elif part["close"] and opened[text]:
            _multiply(pieces, opened[text].pop(), ROUND if text == ")" else SQUARE)
        else:
            pieces += _plain(text)
    for closing, factor in ((")", ROUND), ("]", SQUARE)):
        for start in opened[closing]:
            _multiply(pieces, start, factor)
    return _sections(pieces)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"prompt: {text!r} is no weight; write a number, such as (word:1.3)") from None


def _multiply(pieces: list[_Piece], start: int, factor: float) -> None:
    for index in range(start, len(pieces)):
        piece = pieces[index]
        if piece is not None:
            pieces[index] = replace(piece, weight=piece.weight * factor)


def _plain(text: str) -> list[_Piece]:
    first, *others = _BREAK.split(text)
    pieces: list[_Piece] = [Span(first)]
    for other in others:
        pieces += [None, Span(other)]
    return pieces


def _sections(pieces: list[_Piece]) -> tuple[Section, ...]:
    sections: list[list[Span]] = [[]]
    for piece in pieces:
        if piece is None:
            sections.append([])
            continue
        if not math.isfinite(piece.weight) or abs(piece.weight) > MAX_WEIGHT:
            raise InputError(
                f"prompt: {piece.text[:40]!r} has weight {piece.weight:g}, beyond {MAX_WEIGHT:g}: use smaller weights"
            )
        section = sections[-1]
        if section and section[-1].weight == piece.weight:
            section[-1] = Span(section[-1].text + piece.text, piece.weight)
        else:
            section.append(piece)
    return tuple(map(tuple, sections))
