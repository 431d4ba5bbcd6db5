"""Prompt -> token ids, with CLIP's byte-pair vocabulary; what does not fit into the model's 77 places is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from latentrt.engines.errors import BundleError, InputError
from latentrt.engines.manifest import MAX_TOKENS

ROOM = MAX_TOKENS - 2  # start-of-text and end-of-text take a place each
VOCABULARY = 49_408  # 2 * 256 bytes (plain, and ending a word) + 48,894 merges + the 2 special tokens
SPECIAL_TOKENS = {"<|startoftext|>": VOCABULARY - 2, "<|endoftext|>": VOCABULARY - 1}
START_OF_TEXT, END_OF_TEXT = SPECIAL_TOKENS.values()

_SHOWN = 300  # characters of the cut text that a warning repeats


@dataclass(frozen=True, eq=False)
class Tokens:
    """A prompt as the text encoder takes it.

    Attributes:
        ids: shape (77,), int64: start-of-text, the prompt, end-of-text, padding.
        cut: the end of the prompt that found no room, as it was written; empty when all of it fits.
    """

    ids: NDArray[np.int64]
    cut: str


class ClipTokenizer:
    """CLIP's tokenizer, from the `tokenizer.json` of a bundle.

    The ids are those of `transformers.CLIPTokenizer(prompt, padding="max_length", max_length=77, truncation=True)`.
    """

    def __init__(self, tokenizer: Tokenizer, pad_token_id: int) -> None:
        self._tokenizer = tokenizer
        self.pad_token_id = pad_token_id

    @classmethod
    def from_file(cls, path: str | Path) -> ClipTokenizer:
        """Open a `tokenizer.json` as transformers' `save_pretrained` writes it.

        Truncation that the file asks for is ignored: 77 places it is. Of its padding, the token is kept; a file that
        names none pads with end-of-text, as Stable Diffusion 1.x does.

        Raises:
            BundleError: no such file, not a tokenizer, or not one with CLIP's vocabulary.
        """
        tokenizer = _read(Path(path))
        pad_token_id = (tokenizer.padding or {}).get("pad_id", END_OF_TEXT)
        _check_vocabulary(tokenizer, pad_token_id, path)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, pad_token_id)

    def encode(self, prompt: str) -> Tokens:
        """The ids of a prompt of any length, and the part of it that did not fit.

        Raises:
            InputError: not text, or text with a lone surrogate, which is half of a character.
        """
        check_text("prompt", prompt)
        encoding = self._tokenizer.encode(prompt, add_special_tokens=False)
        fitting = encoding.ids[:ROOM]
        ids = np.full(MAX_TOKENS, self.pad_token_id, np.int64)
        ids[: len(fitting) + 2] = [START_OF_TEXT, *fitting, END_OF_TEXT]
        return Tokens(ids, _cut(prompt, encoding))

    def ids(self, text: str) -> list[int]:
        """The ids of a text of any length, without start, end and padding.

        Raises:
            InputError: as `encode`.
        """
        check_text("prompt", text)
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int]) -> str:
        """About what the ids were made of: in lower case, a space after each word."""
        symbols = (self._tokenizer.id_to_token(i) for i in ids)
        return "".join(filter(None, symbols)).replace("</w>", " ")


def truncation_warning(cut: str, max_chunks: int = 1) -> str:
    """One line that tells a user which words of the prompt the model does not see; `cut` as in `Tokens`, not empty."""
    shown = repr(cut) if len(cut) <= _SHOWN else f"{cut[:_SHOWN]!r} and {len(cut) - _SHOWN} more characters"
    if max_chunks == 1:
        limit = f"is longer than the {MAX_TOKENS} tokens that the model reads"
    else:
        limit = f"fills more than the {max_chunks} chunks of {ROOM} tokens that max_prompt_chunks allows"
    return f"the prompt {limit}; this part of it was cut: {shown}"


def _read(path: Path) -> Tokenizer:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: cannot read the tokenizer: {error.strerror or error}; export the bundle again"
        ) from error
    try:
        return Tokenizer.from_buffer(data)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises plain Exception, and its Rust panics are no Exception at all
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{path}: not a tokenizer.json ({reason}); export the bundle again") from error


def _check_vocabulary(tokenizer: Tokenizer, pad_token_id: int, path: str | Path) -> None:
    ids = tokenizer.get_vocab(with_added_tokens=True).values()
    if len(ids) != VOCABULARY or max(ids) >= VOCABULARY:
        raise BundleError(
            f"{path}: expected CLIP's {VOCABULARY} tokens, numbered from 0, found {len(ids)} numbered up to "
            f"{max(ids, default=0)}; export the bundle again"
        )
    for token, wanted in SPECIAL_TOKENS.items():
        found = tokenizer.token_to_id(token)
        if found != wanted:
            raise BundleError(f"{path}: expected {token} to be token {wanted}, found {found}; export the bundle again")
    if pad_token_id >= VOCABULARY:
        raise BundleError(
            f"{path}: pads with token {pad_token_id}, expected one below {VOCABULARY}; export the bundle again"
        )


def check_text(name: str, text: str) -> None:
    """Check that an argument is text that can be encoded.

    Raises:
        InputError: not a string, or one with a lone surrogate; it names the argument.
    """
    if not isinstance(text, str):
        raise InputError(f"{name}: expected text, found {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name}: character {error.start + 1} is U+{ord(text[error.start]):04X}, half of a surrogate pair and no "
            "character by itself; remove it, or read the prompt as UTF-8"
        ) from error


def _cut(prompt: str, encoding: Encoding) -> str:
    """The text from the first word that is not wholly among the first 75 tokens, to the end of the prompt."""
    words = encoding.word_ids  # which word, as CLIP splits text, each token is a part of
    if len(words) <= ROOM:
        return ""
    first = words.index(words[ROOM])
    if words.count(words[ROOM]) > ROOM:
        first = ROOM  # a word that can never fit, such as a page of Chinese: only the rest of it is cut
    start, _ = encoding.offsets[first]
    # Offsets leave out the marks that a last letter combined with, rstrip the control characters that are tokens.
    end = max(len(prompt.rstrip()), encoding.offsets[-1][1])
    return prompt[start:end]
