"""Train the demo model and pack it: `python -m latentrt.export.demo`. Resumes where it was stopped."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from latentrt.engines.manifest import OWN_DECODER

from ..source import load_source
from ..vocabulary import clip_tokenizer
from .autoencoder import autoencoders, train_autoencoder
from .config import CHECKPOINT, Recipe
from .diffusion import Lessons, train_detail, train_diffusion
from .pack import CHECKPOINT_FILE, pack_demo
from .pool import latent_pool
from .text import train_text_encoder


@dataclass(frozen=True)
class FirstRound:
    """What trains from nothing: the second round trains on from here."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    lessons: Lessons


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
    """The whole recipe: autoencoder, text encoder, UNet; then decoders and detail; then the checkpoint."""
    state.mkdir(parents=True, exist_ok=True)
    first = train_first_round(recipe, state) if start_from is None else load_first_round(recipe, start_from, state)
    vaes = autoencoders(first.vae, first.lessons.pool, recipe, state)
    unet, unet_ema = train_detail(first.unet, recipe.detail, first.lessons, state)
    pack_demo(unet, unet_ema, vaes, first.lessons.encoder, output)


def train_first_round(recipe: Recipe, state: Path) -> FirstRound:
    """Train autoencoder, text encoder and UNet from nothing."""
    vae = train_autoencoder(recipe.autoencoder, recipe.scale_batches, state)
    encoder = train_text_encoder(recipe.text, clip_tokenizer(), state)
    lessons = _lessons(recipe, vae, encoder, state)
    unet, _ = train_diffusion(recipe.diffusion, recipe.plain_noise_steps, lessons, state)
    return FirstRound(vae, unet, lessons)


def load_first_round(recipe: Recipe, folder: Path, state: Path) -> FirstRound:
    """Take them from a packed checkpoint: the raw weights of its UNet, its own autoencoder."""
    source = load_source(folder / CHECKPOINT_FILE, vaes={}, weights="raw")
    vae = source.vaes[OWN_DECODER].load()
    return FirstRound(vae, source.unet.load(), _lessons(recipe, vae, source.text_encoder.load(), state))


def _lessons(recipe: Recipe, vae: AutoencoderKL, encoder: CLIPTextModel, state: Path) -> Lessons:
    return Lessons(latent_pool(vae, recipe.latent_pool, state), encoder, clip_tokenizer(), recipe.caption_dropout)


if __name__ == "__main__":
    main()
