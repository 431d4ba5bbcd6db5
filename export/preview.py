"""Fit the linear map by which a latent is seen while it is drawn, on the decoder's own pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from latentrt.engines.manifest import ModelFacts, Preview

from .trajectory import Drawn
from .wrappers import Network

_SIDE = 8  # latents on a side of a coloured picture: eight of them weigh as much as two of 16 x 16, the trajectories
# Guidance drives latents further apart than the encoder puts them. Of 1, 1.5 and 2, this came nearest to the demo
# model's pictures of other prompts than the recorded one.
_STRETCH = 1.5
_DIGITS = 6


def coloured_latents(encoder: Network, facts: ModelFacts) -> Tensor:
    """What the encoder makes of squares on grounds of all eight pure colours, in latent units: (8, 4, 8, 8).

    The recorded pictures are of one prompt, and have its colours alone.
    """
    pure = torch.tensor(list(product((-1.0, 1.0), repeat=3)))  # the corners of the colour cube
    pictures = pure[:, :, None, None].repeat(1, 1, _SIDE, _SIDE)
    middle = slice(_SIDE // 4, -_SIDE // 4)
    pictures[:, :, middle, middle] = pure.roll(3, 0)[:, :, None, None]
    with torch.no_grad():
        mean, _ = encoder.module(_enlarged(pictures, facts.vae_scale_factor))
    return mean * facts.scaling_factor * _STRETCH  # type: ignore[no-any-return]


def fit_preview(decoder: Network, facts: ModelFacts, coloured: Tensor, drawn: Sequence[Drawn]) -> Preview:
    """The least-squares map from latents to the mean colours of the pixels that the decoder makes of each."""
    with torch.no_grad():
        pictures = [decoder.module(coloured / facts.scaling_factor)]
    latents = [coloured, *(one.latents[-1] for one in drawn)]
    pictures += [one.image for one in drawn if one.image is not None]
    means = [avg_pool2d(picture.clamp(-1, 1), facts.vae_scale_factor) for picture in pictures]
    x, y = _as_rows(latents), _as_rows(means)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    solution = np.linalg.lstsq(x, y, rcond=None)[0].round(_DIGITS)  # (channels + 1, 3)
    error = (x @ solution).clip(-1, 1) - y
    *weights, bias = (_colour(row) for row in solution.tolist())
    return Preview(weights=tuple(weights), bias=bias, rms_error=round(float(np.sqrt(np.mean(error**2))) / 2, _DIGITS))


def _enlarged(pictures: Tensor, factor: int) -> Tensor:
    return pictures.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def _as_rows(pictures: Sequence[Tensor]) -> np.ndarray:
    """Every place of every picture (n, channels, h, w) as a row of its channels, float64."""
    return np.concatenate([one.permute(0, 2, 3, 1).reshape(-1, one.shape[1]).double().numpy() for one in pictures])


def _colour(row: list[float]) -> tuple[float, float, float]:
    red, green, blue = row
    return red, green, blue
