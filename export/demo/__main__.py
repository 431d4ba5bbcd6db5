"""Train the demo model and pack it: `python -m latentrt.export.demo`. Resumes where it was stopped."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from latentrt.engines.manifest import OWN_DECODER

from ..source import load_source
from ..vocabulary import clip_tokenizer
from .autoencoder import autoencoders, train_autoencoder
from .config import CHECKPOINT, Recipe
from .diffusion import train_detail, train_diffusion
from .pack import CHECKPOINT_FILE, pack_demo
from .pool import LatentPool, latent_pool
from .text import train_text_encoder


@dataclass(frozen=True)
class FirstRound:
    """What trains from nothing: everything after it trains on from here."""

    vae: AutoencoderKL
    encoder: CLIPTextModel
    unet: UNet2DConditionModel
    pool: LatentPool


def main() -> None:
    """Train every stage that is not yet trained, then write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--state", type=Path, default=Path("build/demo-training"), help="where interrupted runs are kept"
    )
    parser.add_argument("--output", type=Path, default=CHECKPOINT, help="where the checkpoint goes")
    parser.add_argument("--start-from", type=Path, help="a folder with a checkpoint: only its second round is trained")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    train_and_pack(Recipe(), arguments.state, arguments.output, start_from=arguments.start_from)


def train_and_pack(recipe: Recipe, state: Path, output: Path, *, start_from: Path | None = None) -> None:
    """The whole recipe: autoencoder, text encoder, diffusion model; then decoders and detail; then the checkpoint."""
    state.mkdir(parents=True, exist_ok=True)
    tokenizer = clip_tokenizer()
    if start_from is None:
        first = train_first_round(recipe, tokenizer, state)
    else:
        first = load_first_round(recipe, start_from, state)
    vaes = autoencoders(first.vae, first.pool, recipe, state)
    unet, unet_ema = train_detail(first.unet, recipe, first.pool, first.encoder, tokenizer, state)
    pack_demo(unet, unet_ema, vaes, first.encoder, output)


def train_first_round(recipe: Recipe, tokenizer: CLIPTokenizer, state: Path) -> FirstRound:
    """Train autoencoder, text encoder and UNet from nothing."""
    vae = train_autoencoder(recipe.autoencoder, state)
    pool = latent_pool(vae, recipe.latent_pool, state)
    encoder = train_text_encoder(recipe.text, tokenizer, state)
    unet, _ = train_diffusion(recipe, pool, encoder, tokenizer, state)
    return FirstRound(vae, encoder, unet, pool)


def load_first_round(recipe: Recipe, folder: Path, state: Path) -> FirstRound:
    """Take them from a packed checkpoint: the raw weights of its UNet, its own autoencoder."""
    source = load_source(folder / CHECKPOINT_FILE, vaes={}, weights="raw")
    vae = source.vaes[OWN_DECODER].load()
    return FirstRound(vae, source.text_encoder.load(), source.unet.load(), latent_pool(vae, recipe.latent_pool, state))


if __name__ == "__main__":
    main()
