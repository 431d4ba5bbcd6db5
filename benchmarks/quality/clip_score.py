"""CLIP score: how well pictures fit their prompts, by a CLIP model in a folder. Imports PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from transformers import CLIPModel, CLIPProcessor

from latentrt.engines.errors import InputError, first_line

CLIP_SCORE = "CLIP score"  # its key among a contestant's figures
_AT_ONCE = 8  # pictures


def clip_score(pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[str], folder: Path) -> float:
    """100 times the cosine of picture and prompt, 0 at least, the mean over all (2104.08718, as MLPerf reports it).

    `pictures` are (height, width, 3) uint8, one for each prompt; `folder` is what transformers' `save_pretrained` wrote
    of a CLIPModel and its CLIPProcessor. Nothing is downloaded. A prompt is cut where the model's text ends.

    Raises:
        InputError: there is no such model in the folder, or there are not as many pictures as prompts.
    """
    if len(pictures) != len(prompts) or not pictures:
        raise InputError(f"a CLIP score is of one picture for each prompt; got {len(pictures)} and {len(prompts)}")
    model, processor = _opened(folder)
    scores: list[float] = []
    for start in range(0, len(pictures), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        scores += _scores(model, processor, pictures[some], prompts[some])
    return float(np.mean(scores))


def _opened(folder: Path) -> tuple[CLIPModel, CLIPProcessor]:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no CLIP model: name a folder that save_pretrained of transformers wrote")
    try:
        model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        return model, CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise InputError(f"the CLIP model in {folder} cannot be opened: {first_line(error)}") from error


def _scores(
    model: CLIPModel, processor: CLIPProcessor, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[str]
) -> list[float]:
    images = [Image.fromarray(picture) for picture in pictures]
    room = model.config.text_config.max_position_embeddings
    texts = {"text": list(prompts), "padding": True, "truncation": True, "max_length": room}
    inputs = processor(**texts, images=images, return_tensors="pt")
    with torch.inference_mode():
        found = model(**inputs)
    cosines = (found.image_embeds * found.text_embeds).sum(-1)  # both are of unit length; (n,)
    return [float(cosine) for cosine in (100 * cosines).clamp(min=0)]
