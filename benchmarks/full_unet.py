"""The UNet of Stable Diffusion 1.5's true size, seeded random weights: in PyTorch, and alone in a bundle.

`python -m latentrt.benchmarks.full_unet FOLDER` exports it, unless it is there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from latentrt.engines.atomic import new_folder
from latentrt.engines.bundle import Bundle
from latentrt.engines.golden import GoldenCase
from latentrt.engines.manifest import (
    FILE_NAME,
    FORMAT,
    OWN_DECODER,
    UNET,
    Licence,
    Manifest,
    ModelFacts,
    SchedulerFacts,
)
from latentrt.export.bundle_writer import file_records
from latentrt.export.component_writer import write_components
from latentrt.export.conversion import unet_tensors
from latentrt.export.golden import Inputs, noise, record
from latentrt.export.recorder import Floor, VaeRecorder
from latentrt.export.wrappers import Loader, Network, unet_network

from . import full_size
from .unet_bundle import CALL, ROWS, SIDE, open_unet_bundle

_SMALL = 128  # pixels a side of the call that floors are measured with
_FACTS = ModelFacts(
    family="stable-diffusion-1",
    prediction_type="epsilon",
    latent_channels=4,
    vae_scale_factor=8,
    scaling_factor=0.18215,
    max_tokens=77,
    default_size=SIDE,
    size_multiple=64,
)


def full_unet() -> UNet2DConditionModel:
    """The UNet with its random weights, float32."""
    unet = UNet2DConditionModel(**full_size.UNET)
    return full_size.with_random_weights(unet, unet_tensors(unet))


def full_unet_bundle(folder: Path) -> Bundle:
    """The bundle at `folder`, exported first if there is none: 3.5 GB, three minutes, 10 GB of memory.

    It has no other component, so nothing but `open_unet_bundle` opens it.
    """
    if not folder.exists():
        with new_folder(folder) as beside:
            _write(beside)
    return open_unet_bundle(folder)


def _write(folder: Path) -> None:
    for name in ("onnx", "golden"):
        (folder / name).mkdir()
    components = write_components({UNET: Loader(lambda: unet_network(full_unet()), _outline)}, _Recorder(), folder)
    manifest = Manifest(
        format=FORMAT,
        model=_FACTS,
        scheduler=SchedulerFacts(beta_start=0.00085, beta_end=0.012, num_train_timesteps=1000, steps_offset=1),
        components=components,
        decoders=(),
        default_decoder=OWN_DECODER,
        tokenizer="",
        token_embedding="",
        trajectory=None,
        licence=Licence(name="none: random weights", files=()),
        provenance={},
        files=file_records(folder, (path for path in folder.rglob("*") if path.is_file())),
    )
    (folder / FILE_NAME).write_bytes(manifest.to_json())


def _outline() -> Network:
    with torch.device("meta"):
        return unet_network(UNet2DConditionModel(**full_size.UNET))


class _Recorder:
    """Records the call that is timed, and a small one."""

    def record(self, network: Network) -> list[GoldenCase]:
        return record(network, {CALL: _inputs(ROWS, SIDE), "small": _inputs(1, _SMALL)})

    def floor(self, network: Network, cases: Sequence[GoldenCase]) -> Floor:
        return VaeRecorder(_FACTS).floor(network, cases)


def _inputs(rows: int, side: int) -> Inputs:
    latent = side // _FACTS.vae_scale_factor
    return {
        "sample": noise(rows, (latent, latent), "sample"),
        "timestep": torch.full((rows,), 500.0),
        "encoder_hidden_states": noise(rows, (77, 768), "text", 1)[:, 0],
    }


if __name__ == "__main__":
    full_unet_bundle(Path(sys.argv[1]))
