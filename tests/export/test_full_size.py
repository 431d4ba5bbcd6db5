"""Stable Diffusion 1.5 at its true size: what an export may take, and what it must give. Run with `make test-full`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentrt.benchmarks.export_full import FORMS, measure, run_command
from latentrt.engines import store
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import CheckpointError, EngineError
from latentrt.export.source import load_source

pytestmark = pytest.mark.full

MAX_GB = 9
TARGETS = ("sm86", "sm89", "sm120")
MIN_FREE_BYTES = 20e9


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for a checkpoint and its bundle; emptied at once, not when pytest gets to it."""
    if shutil.disk_usage(tmp_path).free < MIN_FREE_BYTES:
        pytest.skip("needs 20 GB of disk")
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_an_export_stays_within_its_means(form: str, place: Path) -> None:
    figures = measure(place, form)
    assert figures["peak RSS, GB"] <= MAX_GB
    if "--precision" not in form:
        assert max(figures["error"].values()) <= 1e-4
    if "verify" in figures:
        assert figures["verify"]["passed"]
        for part, floor in figures["verify"]["floor"].items():
            assert figures["verify"]["relative L2"][part] <= floor["fp16"]


@pytest.mark.parametrize("form", ["emaonly-fp16.safetensors", "emaonly-fp16.ckpt"])
def test_a_truncated_file_is_named_with_the_byte_where_it_ends(form: str, place: Path) -> None:
    import torch

    from latentrt.benchmarks.full_size import write_checkpoint

    file = write_checkpoint(place / form, dtype=torch.float16)
    with file.open("r+b") as stream:
        stream.truncate(2_000_000_000)
    with pytest.raises(CheckpointError, match=rf"{form}.*ends at byte 2000000000"):
        load_source(file, vaes={})


def test_engines_are_built_for_gpus_that_are_not_here(place: Path) -> None:
    """Text encoder, UNet and decoder for three architectures at once, with no GPU; the encoder comes along."""
    pytest.importorskip("tensorrt_rtx")
    measure(place, "emaonly-fp32.safetensors")
    bundle = Bundle.open(place / "bundle")
    words = ("build", str(bundle.root), "--engine", "tensorrt-rtx", "--target", ",".join(TARGETS))
    *_, peak = run_command(*words)
    assert peak <= MAX_GB * 1e9
    check_plans(bundle)


def check_plans(bundle: Bundle) -> None:
    """Every component has one plan for all targets, its key and record name them, and it holds fp16 weights once."""
    records = {record.key.component: record for record in store.stored(bundle) if not isinstance(record, EngineError)}
    assert records.keys() == bundle.manifest.components.keys() >= {"text_encoder", "unet", "vae_decoder.kl-f8"}
    for component, record in records.items():
        assert record.verification is None  # nothing here can run it
        assert record.options.targets == TARGETS
        assert (record.key.device, record.key.precision) == ("+".join(TARGETS), "fp16")
        [plan] = record.files.values()
        weights = sum(bundle.manifest.files[path].size for path in bundle.component(component).weights)  # fp32
        assert 1 < plan.size / (weights / 2) < 1.1
