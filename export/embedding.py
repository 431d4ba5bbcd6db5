"""A textual inversion in any of its forms -> the one that the runtime reads: a safetensors file of one tensor."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from latentrt.engines.atomic import new_file
from latentrt.engines.errors import CheckpointError, InputError

PICKLES = (".pt", ".bin", ".ckpt", ".pth")
MAX_VECTORS = 75
WEB_UI_KEYS = ("*", "emb_params")  # what the web UIs call the tensor; the word is the file's name there


def import_embedding(source: Path, output: Path, token: str | None = None) -> tuple[str, int]:
    """Write the embedding in `source` as float32 to `output`, in diffusers' form, and return its word and vector count.

    The word is `token`; without one, the name in a file of diffusers' form, or else the source's name without suffix.
    A pickle is read with `weights_only=True`: nothing in it is executed.

    Raises:
        CheckpointError: no such file, refused, damaged, or not one embedding of Stable Diffusion 1.x.
        InputError: `output` does not end in .safetensors.
        OutputError: it is there already, or cannot be written.
    """
    if output.suffix.lower() != ".safetensors":
        raise InputError(f"cannot write {output}: embeddings are .safetensors files; give a name that ends so")
    key, vectors = _one_tensor(source, _read(source))
    word = token if token is not None else source.stem if key in WEB_UI_KEYS else key
    with new_file(output, overwrite=False) as place:
        place.write_bytes(save({word: vectors}))
    return word, len(vectors)


def _read(path: Path) -> Mapping[Any, Any]:
    try:
        if path.suffix.lower() in PICKLES:
            content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            with safe_open(path, framework="pt") as file:
                content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it is not a pickle of plain tensors; ask for .safetensors"
        ) from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a valid safetensors file: {error}") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise CheckpointError(f"{path} is damaged or no embedding: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} is no embedding: expected a table of tensors, found {type(content).__name__}")
    return content


def _one_tensor(path: Path, content: Mapping[Any, Any]) -> tuple[str, Tensor]:
    """The name and the vectors, (n, width) float32, of diffusers' form or of a web UI's (`string_to_param`)."""
    table = content.get("string_to_param", content)
    tensors = {str(k): v for k, v in table.items() if isinstance(v, Tensor)} if isinstance(table, Mapping) else {}
    if {"clip_l", "clip_g"} & tensors.keys():
        raise CheckpointError(f"{path} is an embedding for Stable Diffusion XL; latentrt draws with 1.x only")
    if len(tensors) != 1:
        raise CheckpointError(f"{path} is no embedding: expected one tensor, found {len(tensors)}")
    [(key, tensor)] = tensors.items()
    vectors = tensor.detach()[None] if tensor.ndim == 1 else tensor.detach()
    if vectors.ndim != 2 or not 1 <= len(vectors) <= MAX_VECTORS or not vectors.is_floating_point():
        found = f"{str(vectors.dtype).removeprefix('torch.')} {tuple(vectors.shape)}"
        raise CheckpointError(f"{path} holds {found}; an embedding is 1 to {MAX_VECTORS} vectors of floats")
    if not vectors.isfinite().all():
        raise CheckpointError(f"{path} holds NaN or infinity: it cannot be used")
    return key, vectors.float().contiguous().clone()
