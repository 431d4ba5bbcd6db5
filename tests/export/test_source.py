"""What every form of a model has: facts, provenance, licence, names of decoders."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from latentrt.engines.errors import InputError
from latentrt.export.source import load_source
from support.checkpoints import (
    VAE_FILE,
)


def test_facts_and_provenance_of_the_demo(packed: Path) -> None:
    source = load_source(packed / "demo.safetensors", vaes={"ft-mse": packed / "demo-vae-ft-mse.safetensors"})
    assert (source.facts.prediction_type, source.facts.scaling_factor, source.facts.default_size) == (
        "epsilon",
        0.18215,
        128,
    )
    assert msgspec.structs.astuple(source.scheduler) == (0.00085, 0.012, 1000, 1)
    assert (source.licence_name, source.licence_files) == ("Apache-2.0", ())
    assert source.licence_missing == ("LICENSE-MODEL", "USE_RESTRICTIONS", "NOTICE")
    hashes = {key: value for key, value in source.provenance.items() if key.endswith("sha256")}
    assert all(len(value) == 64 for value in hashes.values())
    assert source.provenance == hashes | {
        "source": "demo.safetensors",
        "weights": "ema",
        "source.ignored": "2 averaging counters, 1 position_ids",
        "vae.ft-mse": "demo-vae-ft-mse.safetensors",
    }
    assert set(hashes) == {"source.sha256", "vae.ft-mse.sha256"}


def test_licence_files_beside_the_checkpoint_are_found(packed: Path, tmp_path: Path) -> None:
    names = ["LICENSE-MODEL.md", "MODEL_CARD.md", "NOTICE", "USE_RESTRICTIONS.txt"]
    for name in (*names, "LICENSE", "README.md"):
        (tmp_path / name).write_text("text")
    (tmp_path / "demo.safetensors").write_bytes((packed / "demo.safetensors").read_bytes())
    source = load_source(tmp_path / "demo.safetensors", vaes={})
    assert (sorted(path.name for path in source.licence_files), source.licence_missing) == (names, ())


@pytest.mark.parametrize("name", ["kl-f8", "", "../x", "a b", "x" * 65])
def test_names_that_no_decoder_may_have(name: str, packed: Path) -> None:
    with pytest.raises(InputError, match="give it another name"):
        load_source(packed / "demo.safetensors", vaes={name: packed / VAE_FILE})
