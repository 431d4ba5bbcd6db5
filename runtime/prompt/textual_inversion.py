"""Textual inversion: vectors that were learned for a new word (Gal et al., 2208.01618), read and found in prompts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from latentrt.engines.errors import InputError

from ..tokenizer import ROOM, VOCABULARY, check_text

MAX_BYTES = 64 * 2**20  # 75 vectors of 768 float32 are 230 KB
WEB_UI_KEY = "emb_params"  # the tensor's name in files that the web UIs write


@dataclass(frozen=True, eq=False)
class TextualInversion:
    """A new word: `vectors` is (n, width) float32, n from 1 to 75."""

    token: str
    vectors: NDArray[np.float32]
    sha256: str  # of the file


def read_textual_inversion(path: str | Path, token: str | None = None) -> TextualInversion:
    """Read a `.safetensors` file of one embedding: diffusers' form, or the web UIs'.

    Its word is `token`; without one, the name that diffusers' form holds, or else the file's name without suffix.

    Raises:
        InputError: no such file, a pickle, or not one embedding; or a name that cannot be found in a prompt.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise InputError(
            f"{path} is not a .safetensors file: convert it with 'latentrt import-embedding {path} -o NAME.safetensors'"
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is larger than {MAX_BYTES} bytes: not a textual inversion")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with safe_open(path, framework="np") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, TypeError) as error:  # TypeError: a dtype that numpy has not
        raise InputError(
            f"{path} is not a safetensors file for numpy: {error}; convert it with import-embedding"
        ) from error
    return TextualInversion(*_one(path, tensors, token), digest)


def path_and_token(word: str) -> tuple[str, str | None]:
    """What a command line names: a path, or TOKEN=PATH."""
    token, equals, path = word.rpartition("=")
    return (word, None) if Path(word).exists() or not equals else (path, token)  # a path may hold '=' too


def _one(path: Path, tensors: dict[str, NDArray[np.float32]], token: str | None) -> tuple[str, NDArray[np.float32]]:
    if "clip_l" in tensors or "clip_g" in tensors:
        raise InputError(
            f"{path} is an embedding for Stable Diffusion XL; latentrt draws with Stable Diffusion 1.x only"
        )
    if len(tensors) != 1:
        raise InputError(f"{path} holds {len(tensors)} tensors; a textual inversion is one")
    [(key, vectors)] = tensors.items()
    vectors = vectors[None] if vectors.ndim == 1 else vectors
    if vectors.ndim != 2 or not 1 <= len(vectors) <= ROOM or vectors.dtype.kind != "f":
        raise InputError(
            f"{path} holds {vectors.dtype} {vectors.shape}; a textual inversion is 1 to {ROOM} vectors of floats"
        )
    if not np.isfinite(vectors).all():
        raise InputError(f"{path} holds NaN or infinity: it cannot be used")
    name = token if token is not None else path.stem if key == WEB_UI_KEY else key
    check_text("token", name)
    if not name.strip() or name != name.strip():
        raise InputError(f"{path}: {name!r} cannot be a word of a prompt; give it another with token")
    return name, vectors.astype(np.float32)


class NewTokens:
    """The textual inversions that are loaded, each with ids of its own after the vocabulary's."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._vectors = np.empty((0, width), np.float32)
        self._loaded: list[tuple[TextualInversion, tuple[int, ...]]] = []
        self._pattern: re.Pattern[str] | None = None

    def add(self, embedding: TextualInversion) -> None:
        """Take in one more.

        Raises:
            InputError: its vectors are of another width than the model's, or its word is taken.
        """
        count, width = embedding.vectors.shape
        if width != self._width:
            raise InputError(
                f"{embedding.token!r} has vectors {width} wide; this model's text encoder takes {self._width}"
            )
        if any(embedding.token.lower() == other.token.lower() for other, _ in self._loaded):
            raise InputError(f"a textual inversion {embedding.token!r} is loaded already; give this one another token")
        first = VOCABULARY + len(self._vectors)
        self._vectors = np.concatenate([self._vectors, embedding.vectors])
        self._loaded.append((embedding, tuple(range(first, first + count))))
        self._loaded.sort(key=lambda entry: -len(entry[0].token))  # the longest name that fits is meant
        names = "|".join(f"({_whole(entry.token)})" for entry, _ in self._loaded)
        self._pattern = re.compile(names, re.IGNORECASE)

    def split(self, text: str) -> Iterator[str | tuple[int, ...]]:
        """The text between new words, and the ids of each new word, in order.

        Case does not count. A name that begins or ends with a letter or digit is found only as a whole word.
        """
        position = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            yield text[position : match.start()]
            assert match.lastindex is not None
            yield self._loaded[match.lastindex - 1][1]
            position = match.end()
        yield text[position:]

    def vector(self, token_id: int) -> NDArray[np.float32]:
        """The vector of an id after the vocabulary's; shape (width,)."""
        vector: NDArray[np.float32] = self._vectors[token_id - VOCABULARY]
        return vector

    def named(self, token_id: int) -> TextualInversion:
        """The textual inversion that an id belongs to."""
        return next(embedding for embedding, ids in self._loaded if token_id in ids)


def _whole(name: str) -> str:
    before = r"(?<![^\W_])" if name[0].isalnum() else ""
    after = r"(?![^\W_])" if name[-1].isalnum() else ""
    return before + re.escape(name) + after
