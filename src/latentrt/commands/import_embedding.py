"""`latentrt import-embedding`: a textual inversion of any form to the file that `generate` takes."""

from __future__ import annotations

from pathlib import Path

from latentrt.engines.errors import EngineError


def import_embedding_command(source: Path, output: Path, token: str | None) -> None:
    """Convert, and print the file's name and the word that prompts call it by."""
    try:
        from latentrt.export.embedding import import_embedding
    except ImportError as error:
        raise EngineError(f"import-embedding needs PyTorch and {error.name}: pip install 'latentrt[export]'") from error
    word, count = import_embedding(source, output, token)
    print(f"{output} {word} ({count} vector{'s' if count > 1 else ''})")
