"""Who may ask: `Authorization: Bearer KEY`, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path

from latentrt.engines.errors import InputError

MIN_CHARS = 16  # of a key: what is shorter can be guessed
KEY: ContextVar[str | None] = ContextVar("api_key", default=None)  # the name of the caller's key, while it is answered


class ApiKeys:
    """The keys that are taken, kept as SHA-256 alone. A key's name is its place in the file: "key-1"."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(_digest(key.encode()) for key in keys)

    def __len__(self) -> int:
        return len(self._digests)

    def name_of(self, authorization: bytes) -> str | None:
        """The name of the key in an `Authorization` header, or None where it is no key.

        Every key is compared to its end, so that the time tells nothing of how near a guess was.
        """
        scheme, _, key = authorization.partition(b" ")
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != b"bearer" or True not in matches:
            return None
        return f"key-{matches.index(True) + 1}"


def read_api_keys(file: Path) -> ApiKeys:
    """The keys of a file, a line each; empty lines and those that begin with # are passed over.

    Raises:
        InputError: the file cannot be read or holds no key, or a key is too short or no plain ASCII.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the API key file {file} cannot be read: {error}") from error
    keys = {number: line for number, line in enumerate(lines, 1) if line and not line.startswith("#")}
    if not keys:
        raise InputError(f"the API key file {file} holds no key: write one a line, of {MIN_CHARS} characters or more")
    for number, key in keys.items():
        if len(key) < MIN_CHARS or not (key.isascii() and key.isprintable()) or " " in key:
            raise InputError(
                f"{file}, line {number}: a key is {MIN_CHARS} or more characters of ASCII without spaces; got "
                f"{len(key)} characters (`openssl rand -hex 24` makes one)"
            )
    return ApiKeys(keys.values())


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
