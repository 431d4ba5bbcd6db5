"""The text encoder's token table: rows are read where they lie in the file, never the whole of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from latentrt.engines.errors import BundleError

from ..tokenizer import VOCABULARY


class TokenTable:
    """Vectors by token id, from a bundle's `token_embedding.safetensors`.

    Raises:
        BundleError: not a table of at least CLIP's 49,408 rows.
    """

    def __init__(self, path: Path) -> None:
        try:
            file: Any = safe_open(path, framework="np")
            [name] = file.keys()
            self._rows = file.get_slice(name)
            rows, self.width = self._rows.get_shape()
            self.vector(0)
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise BundleError(f"{path} is not a token table: {error}; export the bundle again") from error
        if rows < VOCABULARY:
            raise BundleError(f"{path} has {rows} rows, expected {VOCABULARY} or more; export the bundle again")

    def vector(self, token_id: int) -> NDArray[np.float32]:
        """The vector of a token of the vocabulary; shape (width,)."""
        row: NDArray[np.float32] = self._rows[token_id : token_id + 1][0].astype(np.float32)
        return row
