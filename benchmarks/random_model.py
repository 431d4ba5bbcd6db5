"""A whole Stable Diffusion with seeded random weights, of SD 1.5's true size or very small: modules, and a bundle.

`python -m latentrt.benchmarks.random_model FOLDER SIZE DEVICE` exports it, with PyTorch fp32's answers to the calls
that are timed. `DEVICE` ("cuda" or "cpu") computes PyTorch's own error in fp16 and bf16.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from latentrt.engines.golden import GoldenCase
from latentrt.engines.manifest import MAX_TOKENS, OWN_DECODER, TEXT_ENCODER, UNET, ModelFacts, SchedulerFacts
from latentrt.export.bundle_writer import fill_bundle, new_bundle
from latentrt.export.conversion import text_tensors, unet_tensors, vae_tensors
from latentrt.export.demo import config as demo
from latentrt.export.floor import own_error
from latentrt.export.golden import Inputs, noise, record, vae_inputs
from latentrt.export.recorder import Floor, VaeRecorder
from latentrt.export.reduced import DTYPES
from latentrt.export.source import SourceModel
from latentrt.export.stored import StoredNetwork
from latentrt.export.vocabulary import clip_tokenizer
from latentrt.export.wrappers import Network

from . import full_size

ROWS = 2  # of the call that is timed: one guided picture
TIMESTEPS = (981.0, 501.0, 1.0)  # of the recorded calls: the first of a picture, one in its middle, the last


@dataclass(frozen=True)
class ModelSize:
    """One size: the pixels on a side of its pictures, and its networks' configurations."""

    side: int
    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]

    def new_unet(self) -> UNet2DConditionModel:
        """The UNet, its weights whatever they are."""
        return UNet2DConditionModel(**self.unet)

    def new_vae(self) -> AutoencoderKL:
        """The autoencoder, likewise."""
        return AutoencoderKL(**self.vae)

    def new_text_encoder(self) -> CLIPTextModel:
        """The text encoder, likewise."""
        return CLIPTextModel(CLIPTextConfig(**self.text))

    @property
    def facts(self) -> ModelFacts:
        """As a bundle states them."""
        f = 2 ** (len(self.vae["block_out_channels"]) - 1)
        levels = len(self.unet.get("block_out_channels", (320, 640, 1280, 1280)))
        return ModelFacts(
            family="stable-diffusion-1",
            prediction_type="epsilon",
            latent_channels=4,
            vae_scale_factor=f,
            scaling_factor=0.18215,
            max_tokens=MAX_TOKENS,
            default_size=self.side,
            size_multiple=f * 2 ** (levels - 1),
        )


_TINY_UNET = demo.UNET | {  # one level, with attention in the middle
    "block_out_channels": (64,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
}
_TINY_VAE = demo.VAE | {
    "block_out_channels": (16,),
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
}
SIZES = {
    "full": ModelSize(512, full_size.UNET, full_size.VAE, full_size.TEXT),
    "tiny": ModelSize(32, _TINY_UNET, _TINY_VAE, demo.TEXT | {"num_hidden_layers": 1}),  # to try the script itself
}
_SCHEDULE = SchedulerFacts(beta_start=0.00085, beta_end=0.012, num_train_timesteps=1000, steps_offset=1)


def random_unet(size: ModelSize) -> UNet2DConditionModel:
    """The UNet, float32."""
    unet = size.new_unet()
    return full_size.with_random_weights(unet, unet_tensors(unet))


def random_vae(size: ModelSize) -> AutoencoderKL:
    """The autoencoder, float32."""
    vae = size.new_vae()
    return full_size.with_random_weights(vae, vae_tensors(vae))


def random_text_encoder(size: ModelSize) -> CLIPTextModel:
    """The text encoder, float32."""
    text_encoder = size.new_text_encoder()
    return full_size.with_random_weights(text_encoder, text_tensors(text_encoder))


def unet_calls(size: ModelSize) -> dict[str, Inputs]:
    """The calls that are timed and compared, by name: 2 rows of the size's own picture, at each timestep."""
    latent = size.side // size.facts.vae_scale_factor
    width = size.unet["cross_attention_dim"]
    return {
        f"rows{ROWS}-{size.side}x{size.side}-t{timestep:g}": {
            "sample": noise(ROWS, (latent, latent), f"sample {timestep:g}"),
            "timestep": torch.full((ROWS,), timestep),
            "encoder_hidden_states": noise(ROWS, (MAX_TOKENS, width), "text", 1)[:, 0],
        }
        for timestep in TIMESTEPS
    }


def unet_teraflop(size: ModelSize) -> float:
    """Arithmetic of one timed call, as PyTorch counts it, in 10^12; a product and its sum are two."""
    call = next(iter(unet_calls(size).values()))
    with torch.device("meta"):
        unet = size.new_unet()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(**{name: tensor.to("meta") for name, tensor in call.items()}, return_dict=False)
    return float(counter.get_total_flops()) / 1e12


def write_random_bundle(folder: Path, size: ModelSize, device: str) -> None:
    """Export the model to a bundle at `folder`; `device` is where PyTorch's own reduced precision is tried.

    Raises:
        OutputError: something is at `folder`.
        CheckFailedError: a graph is not what PyTorch answered.
    """
    model = SourceModel(
        text_encoder=StoredNetwork(
            size.text, size.new_text_encoder, lambda: random_text_encoder(size), torch.float32, {}
        ),
        unet=StoredNetwork(size.unet, size.new_unet, lambda: random_unet(size), torch.float32, {}),
        vaes={OWN_DECODER: StoredNetwork(size.vae, size.new_vae, lambda: random_vae(size), torch.float32, {})},
        encoders=(),
        tokenizer=clip_tokenizer(),
        facts=size.facts,
        scheduler=_SCHEDULE,
        provenance={},
        licence_name="none: random weights",
    )
    with new_bundle(folder) as place:
        fill_bundle(model, place, recording=_Recording(size, device))


class _Recording:
    """Records the calls that are timed, on the CPU in fp32; floors are those of `device`'s own arithmetic."""

    def __init__(self, size: ModelSize, device: str) -> None:
        self._size, self._device = size, device

    def record(self, network: Network) -> list[GoldenCase]:
        return record(network, self._inputs(network))

    def floor(self, network: Network, cases: Sequence[GoldenCase]) -> Floor:
        if self._device == "cpu":  # where fp16 is slow, the export's own way is to emulate it
            return VaeRecorder(self._size.facts).floor(network, cases)
        floor: Floor = {}
        for precision, dtype in DTYPES.items():
            reduced = replace(network, module=_Reduced(network.module, self._device, dtype))
            floor[precision] = max(own_error(reduced, [case]) for case in cases)
        return {precision: error for precision, error in floor.items() if error < 1}  # NaN is not below 1

    def _inputs(self, network: Network) -> dict[str, Inputs]:
        if network.name == UNET:
            return unet_calls(self._size)
        if network.name == TEXT_ENCODER:
            vectors = noise(ROWS, (MAX_TOKENS, self._size.text["hidden_size"]), "tokens", 1)[:, 0]
            return {f"rows{ROWS}": {"inputs_embeds": 0.02 * vectors}}
        return vae_inputs(network, self._size.facts)


class _Reduced(nn.Module):
    """A network in another precision on another device, asked and answering as the first one."""

    def __init__(self, module: nn.Module, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self._module = module.to(device, dtype)
        self._device, self._dtype = device, dtype

    def forward(self, *inputs: Tensor) -> Any:
        given = (x.to(self._device, self._dtype if x.ndim > 1 else x.dtype) for x in inputs)  # timesteps stay fp32
        return tree_map(lambda answer: answer.float().cpu(), self._module(*given))


if __name__ == "__main__":
    write_random_bundle(Path(sys.argv[1]), SIZES[sys.argv[2]], sys.argv[3])
