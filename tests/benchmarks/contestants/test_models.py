"""The weights that peers run are those in the bundle; another checkpoint is refused before anything runs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline

from latentrt.benchmarks.contestants.models import check_source, model_for
from latentrt.benchmarks.contestants.registry import contestant
from latentrt.benchmarks.contestants.remote import Refused
from latentrt.benchmarks.contestants.workers.contestant import Asked, Clock
from latentrt.benchmarks.contestants.workers.diffusers_pictures import Pictures
from latentrt.benchmarks.demo_model import CHECKPOINT
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import InputError
from latentrt.export.source import SourceModel, load_source
from latentrt.runtime.tokenizer import ClipTokenizer

SOURCE = CHECKPOINT / "demo.safetensors"
PYTHON = Path(sys.executable)


@pytest.fixture(scope="module")
def folder(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_for(contestant("torch"), PYTHON, demo_bundle, SOURCE, tmp_path_factory.mktemp("cache"), 60)


def test_diffusers_loads_the_networks_of_the_bundle(folder: Path, demo_model: SourceModel, demo_bundle: Path) -> None:
    loaded = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    expected = {
        "unet": demo_model.unet.load(),  # the averaged weights, which the bundle has
        "vae": demo_model.vaes["kl-f8"].load(),
        "text_encoder": demo_model.text_encoder.load(),
    }
    for name, network in expected.items():
        found = getattr(loaded, name).state_dict()
        assert found.keys() == network.state_dict().keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in network.state_dict().items())
    bundle = Bundle.open(demo_bundle)
    tokenizer = ClipTokenizer.from_file(bundle.file(bundle.manifest.tokenizer))
    text = "A photo, of the naïve café's 12 RED circles!"
    ids = loaded.tokenizer(text, padding="max_length", truncation=True).input_ids
    assert len(ids) == 77
    assert ids[1 : len(tokenizer.ids(text)) + 1] == tokenizer.ids(text)


def test_each_sampler_keeps_the_spacing_of_its_class(folder: Path) -> None:
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    assert "timestep_spacing" not in config
    loaded = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True).scheduler.config
    assert EulerDiscreteScheduler.from_config(loaded).config.timestep_spacing == "linspace"
    assert DDIMScheduler.from_config(loaded).config.timestep_spacing == "leading"
    assert loaded.steps_offset == 1


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")  # diffusers' own
def test_a_config_that_was_saved_again_does_not_bring_the_spacing_of_another_class(folder: Path) -> None:
    """optimum's exporter saves PNDM's own, "leading", which Euler would take over."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.scheduler = PNDMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="leading")
    assert pipeline.scheduler.config.timestep_spacing == "leading"
    asked = Asked(["a red star"], [0], "", 1, 1.0, "euler", 32, 32)
    Pictures(pipeline, torch.float32, []).draw(asked, Clock())
    assert pipeline.scheduler.config.timestep_spacing == "linspace"
    assert pipeline.scheduler.config.steps_offset == 1


def test_it_is_written_once(folder: Path, demo_bundle: Path) -> None:
    written = (folder / "model_index.json").stat().st_mtime_ns
    said: list[str] = []
    again = model_for(contestant("torch-bf16"), PYTHON, demo_bundle, SOURCE, folder.parents[2], 60, said.append)
    assert again == folder
    assert said == []
    assert (folder / "model_index.json").stat().st_mtime_ns == written


def test_a_diffusers_folder_is_a_source_too(folder: Path, demo_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()  # nothing of it but the manifest is read: as an export of the folder would state it
    provenance = load_source(folder, vaes={}).provenance
    manifest = msgspec.structs.replace(Bundle.open(demo_bundle).manifest, provenance=provenance)
    (bundle / "bundle.json").write_bytes(manifest.to_json())
    again = model_for(contestant("torch"), PYTHON, bundle, folder, tmp_path / "cache", 60)
    assert again != folder
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        assert (again / f"{name}.safetensors").read_bytes() == (folder / f"{name}.safetensors").read_bytes()
    check_source(Bundle.open(bundle), folder)
    with pytest.raises(InputError, match=r"demo\.safetensors is not what .* was exported from: .*Not a directory"):
        check_source(Bundle.open(bundle), SOURCE)


def test_another_checkpoint_is_refused_before_anything_runs(folder: Path, demo_bundle: Path, tmp_path: Path) -> None:
    other = shutil.copy(SOURCE, tmp_path / "other.safetensors")
    with other.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")
    message = r"other\.safetensors is not what .* was exported from: expected demo\.safetensors with SHA-256 .*…, found"
    with pytest.raises(InputError, match=message):
        check_source(Bundle.open(demo_bundle), other)
    with pytest.raises(InputError, match=message):  # though what it would write is there already
        model_for(contestant("torch"), PYTHON, demo_bundle, other, folder.parents[2], 60)
    with pytest.raises(InputError, match=r"nowhere is not what .* was exported from: .*No such file"):
        check_source(Bundle.open(demo_bundle), tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"torch runs the checkpoint that .* name it with --source"):
        model_for(contestant("torch"), PYTHON, demo_bundle, None, tmp_path, 60)


def test_latentrt_runs_the_bundle_itself(demo_bundle: Path, tmp_path: Path) -> None:
    assert model_for(contestant("latentrt"), PYTHON, demo_bundle, None, tmp_path, 60) == demo_bundle


def test_an_exporter_that_fails_leaves_nothing(folder: Path, demo_bundle: Path) -> None:
    with pytest.raises(Refused, match=r"No module named 'optimum'"):
        model_for(contestant("optimum-onnx"), PYTHON, demo_bundle, SOURCE, folder.parents[2], 60)
    assert [place.name for place in folder.parent.iterdir() if place.is_dir()] == ["diffusers"]
