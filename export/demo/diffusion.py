"""Train the latent diffusion model: noise prediction from latents, timestep and caption, with averaged weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from .config import SEED, UNET, VAE, Recipe
from .scenes import Scene, caption, draw, random_scene
from .text import tokenize
from .training import autocast, device, train

TRAIN_TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012  # SD 1.5's "scaled linear" schedule
SNR_CEILING = 5.0  # Min-SNR-gamma weighting (Hang et al. 2023): https://arxiv.org/abs/2303.09556

# SD 1.5's schedule ends with a little signal left. A plain background is so even that its colour can be read off even
# the noisiest training latent, so that a model would hardly learn it from the text, and then take it from the start
# noise when it draws. After a first part, three things make the text worth reading: low frequencies of the noise vary
# more ("offset noise"), most timesteps are noisy ones, and their loss counts for more.
SNR_FLOOR = 0.1
NOISY_FROM, NOISY_SHARE = 600, 0.5
OFFSET_SCALES = {1: 0.6, 4: 0.3}  # deviation of noise that is constant over the picture, and over quarters of a side
ENCODE_BATCH = 16


def alphas_cumprod() -> Tensor:
    """The signal's share of variance at each training timestep: (1000,) float32."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float().to(device())


@torch.no_grad()
def latent_pool(vae: AutoencoderKL, count: int, folder: Path) -> tuple[list[Scene], Tensor, Tensor]:
    """Scenes and their encoded means and deviations, scaled: two (count, 4, 16, 16) float16 tensors on the CPU.

    Drawing is cheap and encoding is not, so a pool is encoded once and then captioned and noised afresh at every step.
    """
    rng = np.random.default_rng([SEED, 3])
    scenes = [random_scene(rng) for _ in range(count)]
    file = folder / "latents.pt"
    if file.exists():
        pool = torch.load(file, weights_only=True)
        return scenes, pool["mean"], pool["std"]
    means, stds = [], []
    for start in track(range(0, count, ENCODE_BATCH), "latents"):
        images = np.stack([draw(scene, rng) for scene in scenes[start : start + ENCODE_BATCH]])
        with autocast():
            posterior = vae.encode(torch.from_numpy(images).to(device(), memory_format=torch.channels_last)).latent_dist
        means.append((posterior.mean * VAE["scaling_factor"]).half().cpu())
        stds.append((posterior.std * VAE["scaling_factor"]).half().cpu())
    mean, std = torch.cat(means), torch.cat(stds)
    torch.save({"mean": mean, "std": std}, file.with_suffix(".tmp"))
    file.with_suffix(".tmp").replace(file)
    return scenes, mean, std


def build() -> UNet2DConditionModel:
    """The UNet with seeded fresh weights."""
    torch.manual_seed(SEED)
    unet = UNet2DConditionModel(**UNET).to(device(), memory_format=torch.channels_last)
    if device().type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # 1.4 times the speed of torch's fused attention here, in bfloat16
    return unet


def train_diffusion(
    recipe: Recipe, vae: AutoencoderKL, encoder: CLIPTextModel, tokenizer: CLIPTokenizer, folder: Path
) -> tuple[UNet2DConditionModel, UNet2DConditionModel]:
    """Train the UNet; returns the raw weights and their moving average."""
    stage = recipe.diffusion
    scenes, means, stds = latent_pool(vae, recipe.latent_pool, folder)
    unet, alpha_bar = build(), alphas_cumprod()

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([SEED, 4, step])
        chosen = rng.integers(0, len(scenes), stage.batch)
        captions = [_caption_or_nothing(scenes[i], rng, recipe.caption_dropout) for i in chosen]
        rows = torch.from_numpy(chosen)
        mean, std = means[rows].float().to(device()), stds[rows].float().to(device())
        x_0 = mean + std * torch.randn_like(mean)
        text_matters = step >= recipe.plain_noise_steps
        eps = torch.randn_like(x_0) + (offset_noise(x_0) if text_matters else 0.0)
        t = timesteps(stage.batch, NOISY_SHARE if text_matters else 0.0)
        a = alpha_bar[t][:, None, None, None]
        x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
        with autocast():
            with torch.no_grad():
                context = encoder(tokenize(tokenizer, captions)).last_hidden_state
            predicted = unet(x_t.contiguous(memory_format=torch.channels_last), t, context).sample
        snr = a / (1 - a)
        weight = snr.clamp(SNR_FLOOR if text_matters else 0.0, SNR_CEILING) / snr
        total: Tensor = (weight * (predicted.float() - eps).square()).mean()
        return total

    ema = train("diffusion", unet, stage, loss, folder)
    averaged: UNet2DConditionModel = ema.module
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
