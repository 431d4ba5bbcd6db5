"""Train the demo model and pack it: `python -m latentrt.export.demo`. Resumes where it was stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

import transformers

from ..source import OWN_DECODER
from ..vocabulary import clip_tokenizer
from .autoencoder import autoencoders
from .config import CHECKPOINT, Recipe
from .diffusion import train_diffusion
from .pack import pack_demo
from .text import train_text_encoder


def main() -> None:
    """Train every stage that is not yet trained, then write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--state", type=Path, default=Path("build/demo-training"), help="where interrupted runs are kept"
    )
    parser.add_argument("--output", type=Path, default=CHECKPOINT, help="where the checkpoint goes")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    train_and_pack(Recipe(), arguments.state, arguments.output)


def train_and_pack(recipe: Recipe, state: Path, output: Path) -> None:
    """The whole recipe: autoencoders, text encoder, diffusion model, checkpoint."""
    state.mkdir(parents=True, exist_ok=True)
    tokenizer = clip_tokenizer()
    vaes = autoencoders(recipe, state)
    encoder = train_text_encoder(recipe.text, tokenizer, state)
    unet, unet_ema = train_diffusion(recipe, vaes[OWN_DECODER], encoder, tokenizer, state)
    pack_demo(unet, unet_ema, vaes, encoder, output)


if __name__ == "__main__":
    main()
