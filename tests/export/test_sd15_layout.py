"""Stable Diffusion 1.5 at its true size, by headers alone: this project's own layout against a published listing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from latentrt.benchmarks.full_size import counters, layout, unet_shapes, vae_shapes
from latentrt.engines.errors import CheckpointError
from latentrt.export.architecture import Shapes
from latentrt.export.source import load_source

LISTING = Path(__file__).parent / "data" / "sd15_keys.txt"
UNET_PARAMETERS = 859_520_964  # as diffusers counts them


def _listed() -> Shapes:
    lines = [line.split() for line in LISTING.read_text().splitlines() if not line.startswith("#")]
    return {key: tuple(map(int, shape.split("x"))) for key, shape in lines}


def test_the_layout_is_the_published_one() -> None:
    ours = dict(layout()) | {key: tuple(tensor.shape) for key, tensor in counters().items()}
    networks = {key: shape for key, shape in ours.items() if "." in key}
    assert networks == _listed()
    averaged = {key: shape for key, shape in layout(ema=True).items() if key.startswith("model_ema.")}
    flat = {"model_ema." + key.removeprefix("model.").replace(".", ""): shape for key, shape in networks.items()}
    assert averaged == {key: shape for key, shape in flat.items() if key.startswith("model_ema.diffusion_model")}
    assert sum(torch.Size(shape).numel() for shape in averaged.values()) == UNET_PARAMETERS


def _holes(path: Path, shapes: Shapes) -> Path:
    """A safetensors file of float16 whose header is real and whose data is a hole in the file: no disk, all zeros."""
    header, end = {}, 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


@pytest.mark.parametrize(("ema", "channels", "says"), [(False, 4, "as stored"), (True, 9, "ema")])
def test_a_file_of_the_true_layout_is_understood(ema: bool, channels: int, says: str, tmp_path: Path) -> None:
    file = _holes(tmp_path / "v1-5.safetensors", layout(ema=ema, in_channels=channels))
    source = load_source(file, vaes={})
    assert (source.provenance["weights"], source.facts.default_size, source.facts.size_multiple) == (says, 512, 64)
    assert source.provenance["source.ignored"] == "12 schedule buffers"
    assert source.unet.config["in_channels"] == channels
    assert (source.unet.dtype, source.text_encoder.config.num_attention_heads) == (torch.float16, 12)


def test_every_difference_is_listed(tmp_path: Path) -> None:
    shapes = dict(layout())
    missing = [key for key in shapes if "input_blocks.7" in key]
    for key in missing:
        del shapes[key]
    prefix = "model.diffusion_model."
    shapes |= {f"{prefix}new{i}.weight": (1,) for i in range(12)}
    shapes[f"{prefix}out.0.weight"] = (321,)
    with pytest.raises(CheckpointError) as caught:
        load_source(_holes(tmp_path / "odd.safetensors", shapes), vaes={})
    message = str(caught.value)
    assert f"{len(missing)} keys missing: {missing[0]}" in message
    assert f"… and {len(missing) - 10} more" in message
    assert "12 keys unexpected" in message
    assert f"{prefix}out.0.weight (expected float (320,), found float16 (321,))" in message


def test_sizes_of_the_networks() -> None:
    assert len(unet_shapes()) == 686
    assert len(vae_shapes()) == 248
    distilled = unet_shapes(time_cond_proj_dim=256)
    assert distilled["time_embed.cond_proj.weight"] == (320, 256)
