"""Train the autoencoder, then refine its decoder alone, twice, as the published SD decoders were."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latentrt.engines.manifest import OWN_DECODER

from .config import SEED, VAE, Recipe, Stage
from .pool import LatentPool, pooled_picture
from .scenes import SIZE, draw, random_scene
from .training import autocast, device, train

KL_WEIGHT = 1e-4  # on means per element: enough that latents are smooth, too little to blur
CROP = 64  # the first part trains on crops: convolutions see four times as many scenes for the same work
LATENT_SIDE = 8  # pixels to a latent
FULL_SIZE_SHARE = 0.2  # the last part trains on whole pictures, which the attention in the middle needs


def images(step: int, count: int, crop: int) -> Tensor:
    """Crops of freshly drawn scenes, the same for the same step: (count, 3, crop, crop) in [-1, 1]."""
    rng = np.random.default_rng([SEED, 1, step])
    batch = np.empty((count, 3, crop, crop), np.float32)
    for image in batch:
        whole = draw(random_scene(rng), rng)
        top, left = rng.integers(0, SIZE - crop + 1, 2)
        image[:] = whole[:, top : top + crop, left : left + crop]
    return torch.from_numpy(batch).to(device(), memory_format=torch.channels_last)


def build() -> AutoencoderKL:
    """The autoencoder with seeded fresh weights."""
    torch.manual_seed(SEED)
    return AutoencoderKL(**VAE).to(device(), memory_format=torch.channels_last)


def train_autoencoder(stage: Stage, scale_batches: int, folder: Path) -> AutoencoderKL:
    """Train encoder and decoder together (L1 and a little KL) and set the latent scale to SD 1.5's."""
    vae = build()
    crops_until = int(stage.steps * (1 - FULL_SIZE_SHARE))

    def loss(step: int) -> Tensor:
        crop = CROP if step < crops_until else SIZE
        x = images(step, max(1, stage.batch * CROP**2 // crop**2), crop)
        with autocast():
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).float().mean()
        total: Tensor = (y.float() - x).abs().mean() + KL_WEIGHT * kl
        return total

    train("autoencoder", vae, stage, loss, folder)
    return scale_latents(vae.eval().requires_grad_(False), scale_batches)


@torch.no_grad()
def scale_latents(vae: AutoencoderKL, batches: int) -> AutoencoderKL:
    """Fold a factor into the 1x1 convolutions, so that latents times 0.18215 have unit deviation, as in SD 1.5.

    The picture stays the same: `quant_conv` grows by what `post_quant_conv` shrinks.
    """
    measured = torch.cat([vae.encode(images(10**6 + i, 8, SIZE)).latent_dist.mean.flatten() for i in range(batches)])
    factor = 1 / (VAE["scaling_factor"] * measured.std().item())
    channels = VAE["latent_channels"]
    assert vae.quant_conv is not None
    assert vae.post_quant_conv is not None
    vae.quant_conv.weight[:channels] *= factor
    vae.quant_conv.bias[:channels] *= factor
    vae.quant_conv.bias[channels:] += 2 * np.log(factor)
    vae.post_quant_conv.weight /= factor
    return vae


def train_decoder(vae: AutoencoderKL, pool: LatentPool, stage: Stage, folder: Path) -> AutoencoderKL:
    """A copy of `vae` whose decoder alone trained on, by L1: small shapes need longer than the latents do.

    Three steps of four are on the middle of the picture, where its shapes are; the last part is on whole pictures.
    """
    longer = copy.deepcopy(vae)
    longer.decoder.train().requires_grad_(True)
    whole_from = int(stage.steps * (1 - FULL_SIZE_SHARE))

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([SEED, 5, step])
        whole = step >= whole_from or rng.random() < 0.25
        crop = SIZE if whole else CROP
        z, x = _middles(pool, max(1, stage.batch * CROP**2 // crop**2), crop, rng)
        with autocast():
            y = longer.decode(z).sample
        error: Tensor = (y.float() - x).abs().mean()
        return error

    train("decoder", longer, stage, loss, folder, parameters=longer.decoder.parameters())
    return longer.eval().requires_grad_(False)


def _middles(pool: LatentPool, count: int, crop: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Latents and their pictures, cut to the same window of `crop` pixels near the middle."""
    rows = rng.integers(0, len(pool), count)
    spare = (SIZE - crop) // LATENT_SIDE  # latents that the window leaves over
    top, left = rng.integers(spare // 4, spare - spare // 4 + 1, 2)
    side = crop // LATENT_SIDE
    z = pool.sample(rows)[:, :, top : top + side, left : left + side]
    pictures = np.stack([pooled_picture(int(i)) for i in rows])
    across, down = (slice(LATENT_SIDE * start, LATENT_SIDE * start + crop) for start in (left, top))
    return _channels_last(z), _channels_last(torch.from_numpy(pictures[:, :, down, across]))


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(device()).contiguous(memory_format=torch.channels_last)


def refine_decoder(vae: AutoencoderKL, pool: LatentPool, name: str, stage: Stage, folder: Path) -> AutoencoderKL:
    """A copy of `vae` whose decoder trained on, the encoder untouched; its weights are the moving average.

    `ft-ema` keeps the loss; `ft-mse` puts the weight on squared error (0.1 of L1 stays), as the published ones did.
    """
    refined = copy.deepcopy(vae)
    refined.decoder.train().requires_grad_(True)

    def loss(step: int) -> Tensor:
        z, x = _middles(pool, stage.batch, SIZE, np.random.default_rng([SEED, 6, step]))
        with autocast():
            y = refined.decode(z).sample
        error: Tensor = y.float() - x
        return error.square().mean() + 0.1 * error.abs().mean() if name == "ft-mse" else error.abs().mean()

    ema = train(name, refined, stage, loss, folder, parameters=refined.decoder.parameters())
    return ema.module.eval()


def autoencoders(vae: AutoencoderKL, pool: LatentPool, recipe: Recipe, folder: Path) -> dict[str, AutoencoderKL]:
    """The three autoencoders by name: `kl-f8`, and its two refined decoders."""
    base = train_decoder(vae, pool, recipe.decoder, folder)
    stages = {"ft-ema": recipe.ft_ema, "ft-mse": recipe.ft_mse}
    refined = {name: refine_decoder(base, pool, name, stage, folder) for name, stage in stages.items()}
    return {OWN_DECODER: base} | refined
