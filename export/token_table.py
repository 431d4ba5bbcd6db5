"""The text encoder's token table as a file of its own: the runtime looks token ids up there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save
from transformers import CLIPTextModel

TENSOR = "token_embedding.weight"


def save_token_table(text_encoder: CLIPTextModel, path: Path) -> None:
    """Write the table, (vocabulary, width) float32, as a safetensors file of one tensor.

    Raises:
        OSError: the file cannot be written.
    """
    table = text_encoder.get_input_embeddings().weight.detach().float().cpu().numpy()
    path.write_bytes(save({TENSOR: np.ascontiguousarray(table)}))
