"""A bundle is complete and repeatable, or it is not there."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import CheckFailedError, CheckpointError, OutputError
from latentrt.engines.manifest import FILE_NAME, parse_manifest
from latentrt.export.bundle_writer import new_bundle, tokenizer_json, write_bundle
from latentrt.export.component_writer import Progress
from latentrt.export.export import export_bundle
from latentrt.export.source import SourceModel
from latentrt.export.vocabulary import clip_tokenizer
from latentrt.export.wrappers import network_loaders


def _content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_every_file_is_listed_with_its_hash(tiny_bundle: Bundle) -> None:
    tiny_bundle.verify_all()
    content = _content(tiny_bundle.root)
    manifest = parse_manifest(content.pop(FILE_NAME), "test")
    assert manifest == tiny_bundle.manifest
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    assert {name: record.sha256 for name, record in manifest.files.items()} == hashes


def test_manifest_states_the_model(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    assert manifest.model.prediction_type == "epsilon"
    assert manifest.model.default_size == 64
    assert manifest.model.size_multiple == 16  # 8 pixels a latent, and a UNet of two levels
    assert manifest.model.scaling_factor == 0.18215
    assert manifest.scheduler.beta_end == 0.012
    assert manifest.decoders == ("kl-f8",)
    assert set(manifest.components) == {"text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8", "safety_checker"}
    assert manifest.provenance["torch"] == torch.__version__


def test_licence_files_travel_under_their_names(tiny_bundle: Bundle, tiny_source: Path) -> None:
    licence = tiny_bundle.manifest.licence
    assert licence.files == ("LICENSE-MODEL", "MODEL_CARD.md", "NOTICE")
    assert licence.missing == ("USE_RESTRICTIONS",)
    assert tiny_bundle.file("LICENSE-MODEL").read_bytes() == (tiny_source / "LICENSE-MODEL.txt").read_bytes()


def test_another_process_writes_the_same_bytes(tiny_bundle: Bundle, tiny_source: Path, tmp_path: Path) -> None:
    """A process of its own, with other hash seeds, so that no set or dict order can hide."""
    code = "import sys; from pathlib import Path; from latentrt.export.export import export_bundle as export; "
    code += "export(Path(sys.argv[1]), Path(sys.argv[2]), vaes={})"
    threads = str(torch.get_num_threads())  # the last bits of PyTorch's sums depend on it
    environment = os.environ | {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-W", "error", "-c", code, str(tiny_source), str(tmp_path / "again")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    first, again = _content(tiny_bundle.root), _content(tmp_path / "again")
    assert first.keys() == again.keys()
    assert [name for name in first if first[name] != again[name]] == []


def test_tokenizer_is_the_one_transformers_saves(tiny_model: SourceModel, tmp_path: Path) -> None:
    tokenizer = clip_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    saved = (tmp_path / "tokenizer.json").read_bytes()
    tokenizer("a red circle", padding="max_length", max_length=77, truncation=True)  # leaves its options behind
    assert tokenizer_json(replace(tiny_model, tokenizer=tokenizer)) == saved


def test_components_of_a_model_with_three_decoders(tiny_model: SourceModel) -> None:
    vae = tiny_model.vaes["kl-f8"]
    model = replace(tiny_model, vaes={"kl-f8": vae, "ft-ema": vae, "ft-mse": vae})
    assert list(network_loaders(model)) == [
        "text_encoder",
        "unet",
        "vae_encoder",
        "vae_decoder.kl-f8",
        "vae_decoder.ft-ema",
        "vae_decoder.ft-mse",
    ]


def test_a_model_that_gives_nan_is_refused_and_nothing_stays(tiny_model: SourceModel, tmp_path: Path) -> None:
    broken = tiny_model.text_encoder.load()
    next(broken.parameters()).fill_(torch.nan)
    text_encoder = replace(tiny_model.text_encoder, load=lambda: broken)
    parts: list[Progress] = []
    with pytest.raises(CheckFailedError, match=r"text_encoder: last_hidden_state of case .* is nan"):
        write_bundle(replace(tiny_model, text_encoder=text_encoder), tmp_path / "out", report=parts.append)
    assert list(tmp_path.iterdir()) == []
    told = [(part.part, part.index, part.total, part.doing, part.seconds) for part in parts]
    doings = ("reading", "recording", "tracing", "reducing", "comparing")
    assert told == [("text_encoder", 0, 5, doing, None) for doing in doings]


def test_ctrl_c_leaves_nothing(tiny_model: SourceModel, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(tiny_model, tmp_path / "out", report=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        export_bundle(tmp_path / "none.safetensors", tmp_path / "out", vaes={})
    assert list(tmp_path.iterdir()) == []


def _stand_in(folder: Path, manifest: str) -> Path:
    folder.mkdir()
    (folder / FILE_NAME).write_text(manifest)
    return folder


A_BUNDLE = '{"format": 99, "components": {}, "files": {}}'  # of a version to come, so not readable, yet a bundle


def test_a_bundle_is_replaced_only_when_asked(tmp_path: Path) -> None:
    output = _stand_in(tmp_path / "out", A_BUNDLE)
    with pytest.raises(OutputError, match="is there already"), new_bundle(output):
        pytest.fail("the block must not run")
    with new_bundle(output, overwrite=True) as folder:
        (folder / "new").touch()
        assert (output / FILE_NAME).exists()  # until the very end
    assert [path.name for path in output.iterdir()] == ["new"]


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"format": 1}', "[" * 100_000])
def test_what_is_not_a_bundle_is_never_replaced(manifest: str, tmp_path: Path) -> None:
    output = _stand_in(tmp_path / "out", manifest)
    with pytest.raises(OutputError, match="is not a bundle"), new_bundle(output, overwrite=True):
        pytest.fail("the block must not run")
    assert (output / FILE_NAME).read_text() == manifest


def test_an_empty_folder_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is not a bundle"), new_bundle(tmp_path, overwrite=True):
        pytest.fail("the block must not run")
