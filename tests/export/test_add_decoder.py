"""A decoder added to a bundle: the bundle an export with it would have given, or the bundle as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from latentrt.benchmarks.demo_model import VAES
from latentrt.engines import store
from latentrt.engines.backend import get_backend
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import CheckpointError, InputError, LatentrtError
from latentrt.engines.manifest import FILE_NAME, parse_manifest
from latentrt.export.add_decoder import add_decoder
from latentrt.export.component_writer import Progress


def _refined(reference: StableDiffusionPipeline, folder: Path, part: str) -> Path:
    """The tiny model's autoencoder with one part changed, as diffusers saves it."""
    vae = AutoencoderKL.from_config(reference.vae.config)
    vae.load_state_dict(reference.vae.state_dict())
    with torch.no_grad():
        for parameter in getattr(vae, part).parameters():
            parameter.mul_(1.1)
    vae.save_pretrained(folder)
    return folder


def _content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def copied(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    shutil.copytree(tiny_bundle.root, tmp_path / "bundle")
    return tmp_path / "bundle"


def _without(bundle: Path, decoder: str) -> None:
    """Take a decoder out of a bundle, as if it had never been exported with it."""
    content = json.loads((bundle / FILE_NAME).read_bytes())
    content["decoders"].remove(decoder)
    del content["components"][f"vae_decoder.{decoder}"]
    content["provenance"] = {k: v for k, v in content["provenance"].items() if not k.startswith(f"vae.{decoder}")}
    for name in [name for name in content["files"] if f"vae_decoder.{decoder}." in name]:
        del content["files"][name]
        (bundle / name).unlink()
    manifest = parse_manifest(json.dumps(content).encode(), "test")
    (bundle / FILE_NAME).write_bytes(manifest.to_json())


def test_the_bundle_is_byte_for_byte_the_one_that_export_writes(demo_bundle: Path, tmp_path: Path) -> None:
    """Whole, less its last decoder, with that one added again; an engine that was built stays."""
    bundle = tmp_path / "bundle"
    shutil.copytree(demo_bundle, bundle)
    _without(bundle, "ft-mse")
    engine, _ = store.build(get_backend("onnxruntime"), Bundle.open(bundle), "vae_decoder.ft-ema")
    parts: list[Progress] = []
    manifest = add_decoder(bundle, "ft-mse", VAES["ft-mse"], report=parts.append)
    assert {name: data for name, data in _content(bundle).items() if "engines/" not in name} == _content(demo_bundle)
    assert manifest == Bundle.open(demo_bundle).manifest
    assert [part.part for part in parts if part.seconds is not None] == ["vae_decoder.ft-mse"]
    found = store.find(get_backend("onnxruntime"), Bundle.open(bundle), "vae_decoder.ft-ema")
    assert found is not None
    assert found.name == engine.key.id
    before = _content(bundle)
    with pytest.raises(InputError, match="has a decoder 'ft-mse' already"):
        add_decoder(bundle, "ft-mse", VAES["ft-mse"])
    assert _content(bundle) == before


def test_an_encoder_that_differs_comes_along_and_is_said(
    copied: Path, tiny_reference: StableDiffusionPipeline, tmp_path: Path
) -> None:
    manifest = add_decoder(copied, "other", _refined(tiny_reference, tmp_path / "vae", "encoder"))
    Bundle.open(copied).verify_all()
    assert {"vae_encoder.other", "vae_decoder.other"} <= manifest.components.keys()
    assert "vae_encoder.other" in manifest.provenance["note.vae.other"]


def test_an_encoder_stored_in_another_precision_is_the_same(
    copied: Path, tiny_reference: StableDiffusionPipeline, tmp_path: Path
) -> None:
    source = _refined(tiny_reference, tmp_path / "vae", "decoder")
    AutoencoderKL.from_pretrained(source).half().save_pretrained(source)
    manifest = add_decoder(copied, "half", source)
    assert [name for name in manifest.components if name.startswith("vae_encoder")] == ["vae_encoder"]


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("kl-f8", {}, InputError, "give it another name"),
        ("../x", {}, InputError, "give it another name"),
        ("mine", {"latent_channels": 8}, CheckpointError, "8 latent channels.*the bundle's model has 4"),
        ("mine", None, CheckpointError, "cannot be read"),
    ],
)
def test_what_may_not_be_added_leaves_the_bundle(
    name: str, changes: Any, error: type[LatentrtError], message: str, copied: Path, tiny_reference: Any, tmp_path: Path
) -> None:
    before = _content(copied)
    if changes is not None:
        AutoencoderKL.from_config(dict(tiny_reference.vae.config) | changes).save_pretrained(tmp_path / "vae")
    with pytest.raises(error, match=message):
        add_decoder(copied, name, tmp_path / "vae")
    assert _content(copied) == before


def test_ctrl_c_on_the_way_leaves_the_bundle(
    copied: Path, tiny_reference: StableDiffusionPipeline, tmp_path: Path
) -> None:
    before, folders = _content(copied), sorted(path.name for path in copied.iterdir() if path.is_dir())

    def interrupt(progress: Progress) -> None:
        if progress.doing == "recording":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_decoder(copied, "ft", _refined(tiny_reference, tmp_path / "vae", "decoder"), report=interrupt)
    assert _content(copied) == before
    assert sorted(path.name for path in copied.iterdir() if path.is_dir()) == folders
