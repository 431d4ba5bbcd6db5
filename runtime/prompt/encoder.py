"""Prompts -> text embeddings: chunks are looked up in the token table, run through the text encoder, and weighted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

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


class PromptEncoder:
    """The way from prompts to embeddings; `new_tokens` may grow between prompts."""

    def __init__(self, tokenizer: ClipTokenizer, table: TokenTable, engine: Engine, max_rows: int) -> None:
        self.new_tokens = NewTokens(table.width)
        self._tokenizer = tokenizer
        self._table = table
        self._engine = engine
        self._max_rows = max_rows
        [self._comma] = tokenizer.ids(",")

    def encode(self, prompts: Prompts, *, guided: bool) -> EncodedPrompts:
        """Encode the prompt, and where it is `guided` the negative one.

        The shorter is padded with empty chunks to the length of the other. Of a plain prompt, `clip_skip` concerns the
        positive alone, as in diffusers; of a weighted one both, as in the web UIs.

        Raises:
            InputError: not text, or weights that cannot be read.
            EngineError: the text encoder failed.
        """
        texts = [prompts.prompt or "", *([prompts.negative_prompt] if guided else [])]
        read = [self._chunks(text, prompts) for text in texts]
        count = max(len(chunks) for chunks, _ in read)
        padded = [[*chunks, *[()] * (count - len(chunks))] for chunks, _ in read]
        used = {i for chunks in padded for chunk in chunks for unit in chunk for i in unit.ids if i >= VOCABULARY}
        skips = [prompts.clip_skip or 0, (prompts.clip_skip or 0) if prompts.prompt_syntax == "weighted" else 0]
        embeddings = [self._embed(chunks, skip) for chunks, skip in zip(padded, skips, strict=False)]
        return EncodedPrompts(
            embeddings[0],
            embeddings[1] if guided else None,
            tuple(truncation_warning(cut, prompts.max_prompt_chunks) for _, cut in read if cut),
            tuple(dict.fromkeys(self.new_tokens.named(i) for i in sorted(used))),
        )

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

    def _embed(self, chunks: Sequence[Chunk], clip_skip: int) -> Embedding:
        """(77 * k, width): each chunk by itself through the text encoder, then weighted, then side by side."""
        rows = [self._row(chunk) for chunk in chunks]
        parts = []
        for start in range(0, len(rows), self._max_rows):
            vectors = np.stack([vectors for vectors, _ in rows[start : start + self._max_rows]])
            outputs = self._engine.run({self._engine.inputs[0].name: vectors})
            if clip_skip:
                parts.append(outputs[HIDDEN_STATES][:, -clip_skip])
            else:
                parts.append(outputs[self._engine.outputs[0].name])
        weighted = [emphasized(z, weights) for z, (_, weights) in zip(np.concatenate(parts), rows, strict=True)]
        return np.concatenate(weighted)

    def _row(self, chunk: Chunk) -> tuple[Embedding, Embedding]:
        """A chunk as the text encoder takes it: vectors (77, width), and the weight of each (77,)."""
        ids = [i for unit in chunk for i in unit.ids]
        weights = [unit.weight for unit in chunk for _ in unit.ids]
        padding = [self._tokenizer.pad_token_id] * (ROOM - len(ids))
        vectors = [self._vector(i) for i in (START_OF_TEXT, *ids, END_OF_TEXT, *padding)]
        spread = np.ones(MAX_TOKENS, np.float32)
        spread[1 : len(ids) + 1] = weights
        return np.stack(vectors), spread

    def _vector(self, token_id: int) -> Embedding:
        return self._table.vector(token_id) if token_id < VOCABULARY else self.new_tokens.vector(token_id)


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
