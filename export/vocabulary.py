"""The CLIP byte-pair vocabulary that every Stable Diffusion 1.x uses, as a transformers tokenizer.

The merges are OpenAI's `bpe_simple_vocab_16e6.txt.gz` (MIT, see `clip_bpe/LICENSE`). A single-file checkpoint carries
no tokenizer, so this is the one it gets.
"""

from __future__ import annotations

import gzip
from importlib.resources import files

from transformers import CLIPTokenizer

from latentrt.engines.manifest import MAX_TOKENS

MERGES = 49152 - 256 - 2  # vocabulary size less the bytes and the two special tokens, as in CLIP's simple_tokenizer.py


def clip_tokenizer() -> CLIPTokenizer:
    """The 49,408-token CLIP tokenizer, padding with end-of-text up to 77 tokens."""
    packed = files(__package__).joinpath("clip_bpe/bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1 : MERGES + 1]
    merges = [tuple(line.split()) for line in lines]
    bytes_ = _byte_symbols()
    symbols = bytes_ + [f"{symbol}</w>" for symbol in bytes_] + ["".join(pair) for pair in merges]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=merges, model_max_length=MAX_TOKENS
    )


def _byte_symbols() -> list[str]:
    """GPT-2's 256 printable stand-ins for the bytes, in the order that CLIP numbers them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
