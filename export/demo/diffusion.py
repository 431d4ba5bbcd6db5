"""Train the latent diffusion model: noise prediction from latents, timestep and caption, with averaged weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from .config import SEED, UNET, VAE, Stage
from .pool import LatentPool, pooled_scene
from .scenes import Scene, caption
from .text import tokenize
from .training import autocast, device, train

Unets: TypeAlias = tuple[UNet2DConditionModel, UNet2DConditionModel]  # raw weights, averaged weights
TRAIN_TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012  # SD 1.5's "scaled linear" schedule
OFFSET_SCALES = {1: 0.6, 4: 0.3}  # deviation of noise that is constant over the picture, and over quarters of a side
NOISY_FROM = 600


@dataclass(frozen=True)
class Emphasis:
    """What a part of the training attends to: the noise it draws, and how its loss is weighed.

    SD 1.5's schedule ends with a little signal left. A plain background is so even that its colour can be read off even
    the noisiest training latent, so that a model would hardly learn it from the text, and then take it from the start
    noise when it draws. Three things make the text worth reading: low frequencies of the noise vary more ("offset
    noise"), more timesteps are noisy ones, and their loss counts for more.
    """

    offset: float  # strength of the offset noise
    noisy_share: float  # of timesteps from `NOISY_FROM` on, beside what chance gives
    snr_floor: float
    snr_ceiling: float  # Min-SNR-gamma weighting (Hang et al. 2023): https://arxiv.org/abs/2303.09556


PLAIN = Emphasis(offset=0.0, noisy_share=0.0, snr_floor=0.0, snr_ceiling=5.0)
WORDS = Emphasis(offset=1.0, noisy_share=0.5, snr_floor=0.1, snr_ceiling=5.0)
DETAIL = Emphasis(offset=0.7, noisy_share=0.2, snr_floor=0.1, snr_ceiling=10.0)


def alphas_cumprod() -> Tensor:
    """The signal's share of variance at each training timestep: (1000,) float32."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float().to(device())


def build() -> UNet2DConditionModel:
    """The UNet with seeded fresh weights."""
    torch.manual_seed(SEED)
    return prepare(UNet2DConditionModel(**UNET))


def prepare(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The UNet where and how it trains fastest."""
    unet = unet.to(device(), memory_format=torch.channels_last)
    if device().type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # 1.4 times the speed of torch's fused attention here, in bfloat16
    return unet


@dataclass(frozen=True)
class Lessons:
    """What the UNet learns from: encoded scenes, the encoder of their captions, and how many captions are left out."""

    pool: LatentPool
    encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    caption_dropout: float

    def loss(self, unet: UNet2DConditionModel, batch: int, rng: np.random.Generator, emphasis: Emphasis) -> Tensor:
        """The error of the predicted noise on `batch` scenes, weighed by the signal-to-noise ratio."""
        rows = rng.integers(0, len(self.pool), batch)
        captions = [_caption_or_nothing(pooled_scene(int(i)), rng, self.caption_dropout) for i in rows]
        x_0 = self.pool.sample(rows) * VAE["scaling_factor"]
        eps = torch.randn_like(x_0) + emphasis.offset * offset_noise(x_0)
        t = timesteps(batch, emphasis.noisy_share)
        a = alphas_cumprod()[t][:, None, None, None]
        x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
        with autocast():
            with torch.no_grad():
                context = self.encoder(tokenize(self.tokenizer, captions)).last_hidden_state
            predicted = unet(x_t.contiguous(memory_format=torch.channels_last), t, context).sample
        snr = a / (1 - a)
        weight = snr.clamp(emphasis.snr_floor, emphasis.snr_ceiling) / snr
        total: Tensor = (weight * (predicted.float() - eps).square()).mean()
        return total


def train_diffusion(stage: Stage, plain_noise_steps: int, lessons: Lessons, folder: Path) -> Unets:
    """Train the UNet from nothing, on plain noise and then with an eye to the words: raw weights and their average."""
    unet = build()

    def loss(step: int) -> Tensor:
        emphasis = PLAIN if step < plain_noise_steps else WORDS
        return lessons.loss(unet, stage.batch, np.random.default_rng([SEED, 4, step]), emphasis)

    return _trained("diffusion", unet, stage, loss, folder)


def train_detail(unet: UNet2DConditionModel, stage: Stage, lessons: Lessons, folder: Path) -> Unets:
    """Train `unet` on, with an eye to detail: raw weights and their average."""
    unet = prepare(unet.train().requires_grad_(True))

    def loss(step: int) -> Tensor:
        return lessons.loss(unet, stage.batch, np.random.default_rng([SEED, 7, step]), DETAIL)

    return _trained("detail", unet, stage, loss, folder)


def _trained(name: str, unet: UNet2DConditionModel, stage: Stage, loss: Callable[[int], Tensor], folder: Path) -> Unets:
    averaged: UNet2DConditionModel = train(name, unet, stage, loss, folder).module
    return unet.eval(), averaged.eval()


def offset_noise(like: Tensor) -> Tensor:
    """Noise that is constant over patches, of a strength between nothing and `OFFSET_SCALES` for each row."""
    strength = torch.rand(len(like), 1, 1, 1, device=like.device)
    total = torch.zeros_like(like)
    for cells, deviation in OFFSET_SCALES.items():
        coarse = torch.randn(*like.shape[:2], cells, cells, device=like.device)
        total += deviation * F.interpolate(coarse, size=like.shape[2:], mode="nearest")
    return strength * total


def timesteps(count: int, noisy_share: float) -> Tensor:
    """Random training timesteps, a share of them drawn from the noisy end: (count,) int64."""
    anywhere = torch.randint(0, TRAIN_TIMESTEPS, (count,), device=device())
    noisy = torch.randint(NOISY_FROM, TRAIN_TIMESTEPS, (count,), device=device())
    return torch.where(torch.rand(count, device=device()) < noisy_share, noisy, anywhere)


def _caption_or_nothing(scene: Scene, rng: np.random.Generator, dropout: float) -> str:
    return "" if rng.random() < dropout else caption(scene, rng)
