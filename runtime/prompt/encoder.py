"""Prompts -> text embeddings: chunks are looked up in the token table, run through the text encoder, and weighted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.engine import Engine
from latentrt.engines.manifest import MAX_TOKENS

from ..tokenizer import END_OF_TEXT, ROOM, START_OF_TEXT, VOCABULARY, ClipTokenizer, truncation_warning
from .chunks import Chunk, Unit, fill_chunks, first_chunk
from .options import HIDDEN_STATES, Prompts
from .textual_inversion import NewTokens, TextualInversion
from .token_table import TokenTable
from .weights import Section, Span, parse_weights

Embedding = NDArray[np.float32]
Ids: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """What the UNet is conditioned on.

    `positive` and `negative` are (77 * k, width), with one k; `negative` is None where there is no guidance.
    `warnings` tells what was cut, a line each; `used` are the textual inversions that occur.
    """

    positive: Embedding
    negative: Embedding | None
    warnings: tuple[str, ...]
    used: tuple[TextualInversion, ...]

    @property
    def chunks(self) -> int:
        """Texts of 77 tokens that the text encoder was asked for, those that occur twice counted twice."""
        return len(self.positive) // MAX_TOKENS * (1 if self.negative is None else 2)


class Text(NamedTuple):
    """A prompt as it is encoded: chunk by chunk, without the encoder's last `clip_skip` layers."""

    chunks: tuple[Chunk, ...]
    clip_skip: int


@dataclass(frozen=True, eq=False)
class Reading:
    """Prompts that were read, not yet encoded: the positive, and where there is guidance the negative, of one length.

    `warnings` and `used` are those of `EncodedPrompts`.
    """

    texts: tuple[Text, ...]
    warnings: tuple[str, ...]
    used: tuple[TextualInversion, ...]


class PromptEncoder:
    """The way from prompts to embeddings; `new_tokens` may grow between prompts."""

    def __init__(self, tokenizer: ClipTokenizer, table: TokenTable, engine: Engine, max_rows: int) -> None:
        self.new_tokens = NewTokens(table.width)
        self._tokenizer = tokenizer
        self._table = table
        self._engine = engine
        self._max_rows = max_rows
        [self._comma] = tokenizer.ids(",")

    def read(self, prompts: Prompts, *, guided: bool) -> Reading:
        """Read the prompt, and where it is `guided` the negative one; no network runs.

        The shorter is padded with empty chunks to the length of the other. Of a plain prompt, `clip_skip` concerns the
        positive alone, as in diffusers; of a weighted one both, as in the web UIs.

        Raises:
            InputError: not text, or weights that cannot be read.
        """
        texts = [prompts.prompt or "", *([prompts.negative_prompt] if guided else [])]
        read = [self._chunks(text, prompts) for text in texts]
        count = max(len(chunks) for chunks, _ in read)
        padded = [(*chunks, *[()] * (count - len(chunks))) for chunks, _ in read]
        used = {i for chunks in padded for chunk in chunks for unit in chunk for i in unit.ids if i >= VOCABULARY}
        skips = [prompts.clip_skip or 0, (prompts.clip_skip or 0) if prompts.prompt_syntax == "weighted" else 0]
        return Reading(
            tuple(Text(chunks, skip) for chunks, skip in zip(padded, skips, strict=False)),
            tuple(truncation_warning(cut, prompts.max_prompt_chunks) for _, cut in read if cut),
            tuple(dict.fromkeys(self.new_tokens.named(i) for i in sorted(used))),
        )

    def embed(self, readings: Sequence[Reading]) -> list[EncodedPrompts]:
        """Encode prompts that were read, those of all together; what occurs twice is encoded once.

        Raises:
            EngineError: the text encoder failed.
        """
        chunks = dict.fromkeys((_ids(c), text.clip_skip) for one in readings for text in one.texts for c in text.chunks)
        states = dict(zip(chunks, self._states(list(chunks)), strict=True))

        def embedding(text: Text) -> Embedding:
            parts = [emphasized(states[_ids(chunk), text.clip_skip], _weights(chunk)) for chunk in text.chunks]
            return np.concatenate(parts)

        return [
            EncodedPrompts(
                embedding(one.texts[0]),
                embedding(one.texts[1]) if len(one.texts) > 1 else None,
                one.warnings,
                one.used,
            )
            for one in readings
        ]

    def _chunks(self, text: str, prompts: Prompts) -> tuple[list[Chunk], str]:
        """The chunks of one prompt, and the text that was cut."""
        sections = parse_weights(text) if prompts.prompt_syntax == "weighted" else ((Span(text),),)
        units = [list(self._units(section)) for section in sections]
        if prompts.max_prompt_chunks == 1:
            chunks, rest = first_chunk(units)
        else:
            filled = fill_chunks(units, self._comma)
            chunks = filled[: prompts.max_prompt_chunks]
            rest = [unit for chunk in filled[prompts.max_prompt_chunks :] for unit in chunk]
        if rest and prompts.prompt_syntax == "plain" and prompts.max_prompt_chunks == 1:
            return chunks, self._tokenizer.encode(text).cut or self._text(rest)  # the words as they were written
        return chunks, self._text(rest)

    def _units(self, section: Section) -> Iterator[Unit]:
        for span in section:
            for part in self.new_tokens.split(span.text):
                if isinstance(part, tuple):
                    yield Unit(part, span.weight)
                else:
                    yield from (Unit((i,), span.weight) for i in self._tokenizer.ids(part))

    def _text(self, units: Iterable[Unit]) -> str:
        words = []
        for unit in units:
            known = unit.ids[0] < VOCABULARY
            words.append(self._tokenizer.text(unit.ids) if known else f"{self.new_tokens.named(unit.ids[0]).token} ")
        return "".join(words).strip()

    def _states(self, chunks: Sequence[tuple[Ids, int]]) -> list[Embedding]:
        """Hidden states (77, width) of each chunk and CLIP skip, in calls of at most `max_rows` chunks."""
        found: list[Embedding] = []
        for start in range(0, len(chunks), self._max_rows):
            some = chunks[start : start + self._max_rows]
            outputs = self._engine.run({self._engine.inputs[0].name: np.stack([self._vectors(ids) for ids, _ in some])})
            last = outputs[self._engine.outputs[0].name]
            found += [outputs[HIDDEN_STATES][i, -skip] if skip else last[i] for i, (_, skip) in enumerate(some)]
        return found

    def _vectors(self, ids: Ids) -> Embedding:
        """A chunk as the text encoder takes it: (77, width)."""
        padding = [self._tokenizer.pad_token_id] * (ROOM - len(ids))
        return np.stack([self._vector(i) for i in (START_OF_TEXT, *ids, END_OF_TEXT, *padding)])

    def _vector(self, token_id: int) -> Embedding:
        return self._table.vector(token_id) if token_id < VOCABULARY else self.new_tokens.vector(token_id)


def _ids(chunk: Chunk) -> Ids:
    return tuple(i for unit in chunk for i in unit.ids)


def _weights(chunk: Chunk) -> Embedding:
    """The weight of each vector of a chunk: (77,)."""
    weights = [unit.weight for unit in chunk for _ in unit.ids]
    spread = np.ones(MAX_TOKENS, np.float32)
    spread[1 : len(weights) + 1] = weights
    return spread


def emphasized(z: Embedding, weights: Embedding) -> Embedding:
    """Hidden states (77, width) times their weights (77,), then scaled so that the mean over all is what it was.

    The web UIs' emphasis "Original" (`EmphasisOriginal` of `modules/sd_emphasis.py`), which they apply chunk by chunk.
    """
    if (weights == 1).all():
        return z
    weighted = z * weights[:, None]
    return np.asarray(weighted * (z.mean(dtype=np.float64) / weighted.mean(dtype=np.float64)), np.float32)


def prompt_facts(prompts: Prompts, encoded: EncodedPrompts) -> dict[str, str]:
    """How the prompts were read, as it is told in the picture's text; nothing of what is at its default."""
    facts: dict[str, str] = {}
    if prompts.prompt_syntax != "plain":
        facts["prompt_syntax"] = prompts.prompt_syntax
    if prompts.max_prompt_chunks > 1:
        facts["max_prompt_chunks"] = str(prompts.max_prompt_chunks)
    if prompts.clip_skip is not None:
        facts["clip_skip"] = str(prompts.clip_skip)
    if encoded.used:
        facts["textual_inversion"] = ", ".join(f"{e.token} sha256 {e.sha256[:12]}" for e in encoded.used)
    return facts
