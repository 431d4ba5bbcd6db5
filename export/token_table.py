"""The text encoder's token table as a file of its own: the runtime looks token ids up there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save
from transformers import CLIPTextModel

from latentrt.engines.manifest import ExportPrecision

TENSOR = "token_embedding.weight"


def save_token_table(text_encoder: CLIPTextModel, path: Path, precision: ExportPrecision = "fp32") -> None:
    """Write the table, (vocabulary, width), as a safetensors file of one tensor.

    Raises:
        OSError: the file cannot be written.
    """
    table = text_encoder.get_input_embeddings().weight.detach().float().cpu().numpy()
    table = table.astype(np.float16) if precision == "fp16" else table
    path.write_bytes(save({TENSOR: np.ascontiguousarray(table)}))
