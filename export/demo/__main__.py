"""Train the demo model: `python -m latentrt.export.demo --state DIR --output DIR`. Resumes where it was stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..vocabulary import clip_tokenizer
from .autoencoder import refine_decoder, train_autoencoder
from .config import Recipe
from .diffusion import train_diffusion
from .text import train_text_encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, default=Path("build/demo-training"), help="where interrupted runs are kept")
    arguments = parser.parse_args()
    folder = arguments.state
    folder.mkdir(parents=True, exist_ok=True)
    recipe = Recipe()
    tokenizer = clip_tokenizer()
    vae = train_autoencoder(recipe.autoencoder, folder)
    encoder = train_text_encoder(recipe.text, tokenizer, folder)
    train_diffusion(recipe, vae, encoder, tokenizer, folder)
    for name in ("ft-ema", "ft-mse"):
        refine_decoder(vae, name, getattr(recipe, name.replace("-", "_")), folder)


if __name__ == "__main__":
    main()
