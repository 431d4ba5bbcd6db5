"""The map from latents to colours: what it is fitted to, and that it finds a decoder that is linear."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from latentrt.engines.bundle import Bundle
from latentrt.engines.manifest import ModelFacts
from latentrt.export.preview import coloured_latents, fit_preview
from latentrt.export.source import SourceModel
from latentrt.export.wrappers import Network, network_loaders

FACTS = ModelFacts(
    family="stable-diffusion-1",
    prediction_type="epsilon",
    latent_channels=4,
    vae_scale_factor=8,
    scaling_factor=0.5,
    max_tokens=77,
    default_size=64,
    size_multiple=64,
)
WEIGHTS = torch.tensor(
    [[0.1, 0, 0.05], [0, 0.1, 0], [0.02, 0, 0.1], [-0.05, 0.03, 0]]
)  # (4, 3): colours stay in [-1, 1]
BIAS = torch.tensor([0.1, -0.2, 0.0])


class LinearDecoder(nn.Module):
    """Each latent becomes 8 x 8 pixels of one colour, and `texture` that their mean knows nothing of."""

    def __init__(self, texture: float) -> None:
        super().__init__()
        self.texture = texture

    def forward(self, latent_sample: Tensor) -> Tensor:
        colours = torch.einsum("nchw,cr->nrhw", latent_sample * FACTS.scaling_factor, WEIGHTS) + BIAS[:, None, None]
        stripes = torch.tensor([1.0, -1.0]).repeat(4 * latent_sample.shape[3]) * self.texture
        return interpolate(colours, scale_factor=8, mode="nearest") + stripes


def test_a_linear_decoder_is_found_whatever_its_texture() -> None:
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    fitted = fit_preview(Network("vae_decoder.kl-f8", LinearDecoder(0.1), (), ()), FACTS, latents, ())
    np.testing.assert_allclose(fitted.weights, WEIGHTS, atol=1e-5)
    np.testing.assert_allclose(fitted.bias, BIAS, atol=1e-5)
    assert fitted.rms_error < 1e-5


def test_the_colours_are_eight_on_eight_and_reach_the_encoder_at_its_scale(tiny_model: SourceModel) -> None:
    class Encoder(nn.Module):
        def forward(self, sample: Tensor) -> tuple[Tensor, Tensor]:
            self.seen = sample
            return sample[:, :, ::8, ::8], sample

    encoder = Encoder()
    latents = coloured_latents(Network("vae_encoder", encoder, (), ()), FACTS)
    assert encoder.seen.shape == (8, 3, 64, 64)
    grounds, squares = ({tuple(one.tolist()) for one in encoder.seen[:, :, at, at]} for at in (0, 32))
    assert len(grounds) == len(squares) == 8
    assert not bool((encoder.seen[:, :, 0, 0] == encoder.seen[:, :, 32, 32]).all(1).any())
    assert latents.shape == (8, 3, 8, 8)
    assert float(latents.abs().max()) == 0.5 * 1.5
    real = coloured_latents(network_loaders(tiny_model)["vae_encoder"].load(), tiny_model.facts)
    assert real.shape == (8, 4, 8, 8)


def test_every_export_has_one(tiny_bundle: Bundle) -> None:
    preview = tiny_bundle.manifest.preview
    assert preview is not None
    assert len(preview.weights) == tiny_bundle.manifest.model.latent_channels
    assert 0 < preview.rms_error < 0.5
