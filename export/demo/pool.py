"""Scenes drawn and encoded once, for everything that trains on latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from .config import SEED
from .scenes import Scene, draw, random_scene
from .training import autocast, device

ENCODE_BATCH = 16


@dataclass(frozen=True)
class LatentPool:
    """Encoded scenes; scene and picture come again from their index, so only the latents are kept.

    `means` and `deviations` are the encoder's, unscaled: (count, 4, 16, 16) float16 on the CPU.
    """

    means: Tensor
    deviations: Tensor

    def __len__(self) -> int:
        return len(self.means)

    def sample(self, rows: NDArray[np.int64]) -> Tensor:
        """One draw from the posterior of each chosen scene: (n, 4, 16, 16) float32."""
        chosen = torch.from_numpy(rows)
        mean, deviation = (t[chosen].float().to(device()) for t in (self.means, self.deviations))
        return mean + deviation * torch.randn_like(mean)


def pooled_scene(index: int) -> Scene:
    """What is on picture `index` of the pool."""
    return random_scene(_generator(index))


def pooled_picture(index: int) -> NDArray[np.float32]:
    """Picture `index` of the pool: (3, 128, 128) float32 in [-1, 1]."""
    rng = _generator(index)
    return draw(random_scene(rng), rng)


def _generator(index: int) -> np.random.Generator:
    return np.random.default_rng([SEED, 3, index])


@torch.no_grad()
def latent_pool(vae: AutoencoderKL, count: int, folder: Path) -> LatentPool:
    """Draw and encode `count` scenes, or read what an earlier run left in `folder`."""
    file = folder / "latents.pt"
    if file.exists():
        kept = torch.load(file, weights_only=True)
        return LatentPool(kept["means"], kept["deviations"])
    means, deviations = [], []
    for start in track(range(0, count, ENCODE_BATCH), "latents"):
        pictures = np.stack([pooled_picture(i) for i in range(start, min(start + ENCODE_BATCH, count))])
        with autocast():
            posterior = vae.encode(
                torch.from_numpy(pictures).to(device(), memory_format=torch.channels_last)
            ).latent_dist
        means.append(posterior.mean.half().cpu())
        deviations.append(posterior.std.half().cpu())
    pool = LatentPool(torch.cat(means), torch.cat(deviations))
    torch.save({"means": pool.means, "deviations": pool.deviations}, file.with_suffix(".tmp"))
    file.with_suffix(".tmp").replace(file)
    return pool
