"""Train the text encoder to know what a caption states, before the diffusion model learns to draw from it.

SD 1.5 takes a frozen CLIP text encoder. Here the same transformer learns from captions alone: linear heads read the
scene's words (background, and shape, colour and size of each thing, and their relation) off its last hidden state.
The heads are thrown away.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .config import SEED, TEXT, Stage
from .scenes import COLOURS, RADII, RELATIONS, SHAPES, Scene, caption, random_scene
from .training import autocast, device, train

_NOTHING = "nothing"
_FACTS: tuple[tuple[str, ...], ...] = (
    tuple(COLOURS),  # background
    *((*SHAPES, _NOTHING), (*COLOURS, _NOTHING), (*RADII, _NOTHING)) * 2,  # the first thing, the second
    (*RELATIONS, _NOTHING),
)


def facts(scene: Scene) -> list[int]:
    """The scene as one class index for each head."""
    words = [scene.background]
    for thing in (*scene.things, None)[:2]:
        words += [thing.shape, thing.colour, thing.size] if thing else [_NOTHING] * 3
    words.append(scene.relation or _NOTHING)
    return [options.index(word) for options, word in zip(_FACTS, words, strict=True)]


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids as SD feeds them: (n, 77) int64, padded with end-of-text."""
    ids = tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    return ids.to(device())  # type: ignore[no-any-return]


def build() -> CLIPTextModel:
    """The text encoder with seeded fresh weights."""
    torch.manual_seed(SEED)
    return CLIPTextModel(CLIPTextConfig(**TEXT)).to(device())


def train_text_encoder(stage: Stage, tokenizer: CLIPTokenizer, folder: Path) -> CLIPTextModel:
    """Train the text encoder and return it frozen."""
    encoder = build()
    heads = nn.Linear(TEXT["hidden_size"], sum(map(len, _FACTS))).to(device())
    sizes = [len(options) for options in _FACTS]

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([SEED, 2, step])
        scenes = [random_scene(rng, two_share=0.5) for _ in range(stage.batch)]
        ids = tokenize(tokenizer, [caption(scene, rng) for scene in scenes])
        truth = torch.tensor([facts(scene) for scene in scenes], device=device())
        with autocast():
            hidden = encoder(ids).last_hidden_state
        rows = torch.arange(len(ids), device=device())
        end = (ids == TEXT["eos_token_id"]).int().argmax(1)  # padding repeats it: this is the first
        padding = (end + torch.from_numpy(rng.integers(1, 77, len(ids))).to(device())).clamp(max=76)
        total = torch.zeros((), device=device())
        for position in (end, padding):
            logits = heads(hidden[rows, position].float()).split(sizes, dim=1)
            total = total + sum(F.cross_entropy(guess, truth[:, i]) for i, guess in enumerate(logits)) / 2
        return total / len(sizes)

    train("text", nn.ModuleList([encoder, heads]), stage, loss, folder)
    return encoder.eval().requires_grad_(False)
