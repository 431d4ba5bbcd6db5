"""The model's networks as plain modules: tensors in, tensors out, and the names and shapes that the bundle states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from transformers import CLIPTextModel

from latentrt.engines.manifest import (
    MAX_TOKENS,
    OWN_DECODER,
    TEXT_ENCODER,
    TIMESTEP_COND,
    UNET,
    decoder_component,
    encoder_component,
)
from latentrt.engines.tensor import TensorSpec

from .source import SourceModel
from .stored import StoredNetwork
from .vae import StoredVae

IMAGE_CHANNELS = 3

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Network:
    """One component before export: `module(*inputs)` gives one tensor, or a tuple of as many as `outputs`."""

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class TextEncoder(nn.Module):
    """Token vectors to hidden states, each after the final layer norm, as SD 1.x conditions on the last of them.

    The runtime looks the vectors up in the bundle's token table, and so can put a textual inversion's among them.
    """

    causal: Tensor

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        text_encoder.set_attn_implementation("sdpa")  # exports as one Attention node
        self.text_encoder = text_encoder
        # a ready mask is taken as it is; the one that transformers makes is expanded to the rows at run time
        mask = torch.ones(1, 1, MAX_TOKENS, MAX_TOKENS, dtype=torch.bool).tril()
        self.register_buffer("causal", mask, persistent=False)

    def forward(self, inputs_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, 77, width) -> the last hidden state, (rows, 77, width); those before it, (rows, layers, 77, width)."""
        text = self.text_encoder
        hidden: Tensor = text.embeddings(inputs_embeds=inputs_embeds)
        earlier = []
        for layer in text.encoder.layers:
            earlier.append(hidden)
            hidden = layer(hidden, self.causal)
        return text.final_layer_norm(hidden), text.final_layer_norm(torch.stack(earlier, dim=1))


class UNet(nn.Module):
    """The noise predictor with a timestep of its own for each row, and a guidance embedding where it is distilled."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = _with_fused_attention(unet)

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, timestep_cond: Tensor | None = None
    ) -> Tensor:
        """(rows, channels, h, w), (rows,), (rows, tokens, width), maybe (rows, 256) -> (rows, 4, h, w)."""
        predicted: Tensor = self.unet(
            sample, timestep, encoder_hidden_states, timestep_cond=timestep_cond, return_dict=False
        )[0]
        return predicted


class VaeDecoder(nn.Module):
    """Latents, already divided by the scaling factor, to pictures in about [-1, 1]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = _with_fused_attention(vae)

    def forward(self, latent_sample: Tensor) -> Tensor:
        """(rows, 4, h, w) -> (rows, 3, 8 h, 8 w)."""
        sample: Tensor = self.vae.decode(latent_sample, return_dict=False)[0]
        return sample


class VaeEncoder(nn.Module):
    """Pictures in [-1, 1] to the mean and deviation of their latents, not yet scaled."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = _with_fused_attention(vae)

    def forward(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, 3, 8 h, 8 w) -> two of (rows, 4, h, w)."""
        posterior = self.vae.encode(sample).latent_dist
        return posterior.mean, posterior.std


@dataclass(frozen=True)
class Loader:
    """A component of a bundle to be: `load` reads it with its weights, `outline` makes it without, on the meta device.

    Both are made anew by each call, so that a network is in memory for as long as its caller holds it.
    """

    load: Callable[[], Network]
    outline: Callable[[], Network]


def loader(stored: StoredNetwork[Module], as_network: Callable[[Module], Network]) -> Loader:
    """The component that `as_network` makes of a network on disk."""

    def outline() -> Network:
        with torch.device("meta"):  # the tensors that wrappers add
            return as_network(stored.empty())

    return Loader(lambda: as_network(stored.load()), outline)


def network_loaders(model: SourceModel) -> dict[str, Loader]:
    """The components of a bundle, in the order they are exported."""
    loaders = {
        TEXT_ENCODER: loader(model.text_encoder, text_encoder_network),
        UNET: loader(model.unet, unet_network),
    }
    for name, vae in model.vaes.items():
        loaders |= vae_loaders(name, vae, encoder=name == OWN_DECODER or name in model.encoders)
    return loaders


def vae_loaders(name: str, vae: StoredVae, *, encoder: bool) -> dict[str, Loader]:
    """The components of one autoencoder: its decoder, and its encoder where that is its own."""
    own = {encoder_component(name): loader(vae, partial(vae_encoder_network, encoder_component(name)))}
    return (own if encoder else {}) | {
        decoder_component(name): loader(vae, partial(vae_decoder_network, decoder_component(name)))
    }


def text_encoder_network(text_encoder: CLIPTextModel) -> Network:
    """The text encoder as a component. As all of these, it sets the module to fp32 inference."""
    width, layers = (int(getattr(text_encoder.config, key)) for key in ("hidden_size", "num_hidden_layers"))
    return Network(
        TEXT_ENCODER,
        _ready(TextEncoder(text_encoder)),
        (_spec("inputs_embeds", "rows", MAX_TOKENS, width),),
        (
            _spec("last_hidden_state", "rows", MAX_TOKENS, width),
            _spec("hidden_states", "rows", layers, MAX_TOKENS, width),
        ),
    )


def unet_network(unet: UNet2DConditionModel) -> Network:
    """The UNet as a component, with the inputs that it has: 9 channels for inpainting, guidance where distilled."""
    config = unet.config
    multiple = 2 ** (len(config["block_out_channels"]) - 1)  # each level but the last halves height and width
    size = tuple(_times(multiple, name) for name in ("height", "width"))
    inputs = [
        _spec("sample", "rows", int(config["in_channels"]), *size),
        _spec("timestep", "rows"),
        _spec("encoder_hidden_states", "rows", "tokens", int(config["cross_attention_dim"])),  # 77 for each chunk
    ]
    if config["time_cond_proj_dim"] is not None:
        inputs.append(_spec(TIMESTEP_COND, "rows", int(config["time_cond_proj_dim"])))
    output = _spec("out_sample", "rows", int(config["out_channels"]), *size)
    return Network(UNET, _ready(UNet(unet)), tuple(inputs), (output,))


def vae_encoder_network(name: str, vae: AutoencoderKL) -> Network:
    """An autoencoder's encoder as a component."""
    latent, picture = _vae_shapes(vae)
    outputs = (_spec("latent_mean", *latent), _spec("latent_std", *latent))
    return Network(name, _ready(VaeEncoder(vae)), (_spec("sample", *picture),), outputs)


def vae_decoder_network(name: str, vae: AutoencoderKL) -> Network:
    """An autoencoder's decoder as a component."""
    latent, picture = _vae_shapes(vae)
    return Network(name, _ready(VaeDecoder(vae)), (_spec("latent_sample", *latent),), (_spec("sample", *picture),))


def _vae_shapes(vae: AutoencoderKL) -> tuple[tuple[int | str, ...], tuple[int | str, ...]]:
    """Shapes of the latent and of the picture."""
    f = 2 ** (len(vae.config["block_out_channels"]) - 1)  # pixels per latent
    latent = ("rows", int(vae.config["latent_channels"]), "height", "width")
    return latent, ("rows", IMAGE_CHANNELS, _times(f, "height"), _times(f, "width"))


def _times(factor: int, name: str) -> str:
    return name if factor == 1 else f"{factor}*{name}"


def _spec(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def _with_fused_attention(module: Any) -> Any:
    """Diffusers has several attention codes with equal results; this one exports as one Attention node."""
    module.set_attn_processor(AttnProcessor2_0())
    return module


def _ready(module: nn.Module) -> nn.Module:
    """fp32, dense memory order, and no gradients: what PyTorch's recorded answers are computed with."""
    return module.to(torch.float32).to(memory_format=torch.contiguous_format).eval().requires_grad_(False)  # type: ignore[call-overload, no-any-return]
