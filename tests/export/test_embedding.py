"""Embeddings in every form that is found, as pickles made by torch itself."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentrt.engines.errors import CheckpointError, InputError, LatentrtError, OutputError
from latentrt.export.embedding import import_embedding
from latentrt.runtime.prompt.textual_inversion import read_textual_inversion

V = torch.arange(24, dtype=torch.float32).reshape(3, 8)

FORMS: dict[str, tuple[str, Any, str, torch.Tensor]] = {
    "diffusers .bin": ("learned_embeds.bin", {"<toy>": V[0]}, "<toy>", V[:1]),
    "diffusers .bin of several": ("learned_embeds.bin", {"<toy>": V.half()}, "<toy>", V),
    "a parameter": ("x.bin", {"<toy>": torch.nn.Parameter(V)}, "<toy>", V),
    "web UI .pt": (
        "bad-hands-5.pt",
        {"string_to_token": {"*": 265}, "string_to_param": {"*": V}, "name": "other", "step": 9, "sd_checkpoint": None},
        "bad-hands-5",
        V,
    ),
    "web UI .pt, ordered": ("s.pt", OrderedDict(string_to_param=OrderedDict({"*": V.bfloat16()})), "s", V),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_the_file_that_the_runtime_reads(form: str, legacy: bool, tmp_path: Path) -> None:
    name, content, token, vectors = FORMS[form]
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    out = tmp_path / "out.safetensors"
    assert import_embedding(tmp_path / name, out) == (token, len(vectors))
    assert torch.equal(load_file(out)[token], vectors)
    found = read_textual_inversion(out)
    assert found.token == token
    assert torch.equal(torch.from_numpy(found.vectors), vectors)


def test_safetensors_and_a_word_of_ones_own(tmp_path: Path) -> None:
    save_file({"emb_params": V.bfloat16()}, tmp_path / "style.safetensors")
    assert import_embedding(tmp_path / "style.safetensors", tmp_path / "a.safetensors") == ("style", 3)
    assert import_embedding(tmp_path / "style.safetensors", tmp_path / "b.safetensors", "<s>") == ("<s>", 3)
    assert load_file(tmp_path / "b.safetensors")["<s>"].dtype == torch.float32


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


BAD: dict[str, tuple[Any, str]] = {
    "a program": ({"<a>": Hostile()}, "is refused"),
    "two": ({"a": V, "b": V}, "expected one tensor, found 2"),
    "none": ({"a": 1}, "found 0"),
    "XL": ({"clip_l": V, "clip_g": V}, "Stable Diffusion XL"),
    "integers": ({"a": V.long()}, "vectors of floats"),
    "a picture": ({"a": torch.zeros(3, 8, 8)}, r"float32 \(3, 8, 8\)"),
    "NaN": ({"a": V / 0}, "NaN"),
    "a list": ([V], "found list"),
}


@pytest.mark.parametrize("name", BAD)
def test_others_are_refused_and_nothing_is_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, words = BAD[name]
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=words) as caught:
        import_embedding(tmp_path / "x.pt", tmp_path / "out.safetensors")
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"]


def test_damage_and_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "x.safetensors").write_bytes(b"\x10" * 40)
    for name in ("x.pt", "x.safetensors", "none.pt", "none.safetensors"):
        with pytest.raises(CheckpointError, match=name):
            import_embedding(tmp_path / name, tmp_path / "out.safetensors")
    torch.save({"<a>": V}, tmp_path / "good.pt")
    bad: list[tuple[Path, type[LatentrtError]]] = [
        (tmp_path / "out.pt", InputError),
        (tmp_path / "x.safetensors", OutputError),
    ]
    for output, error in bad:
        with pytest.raises(error):
            import_embedding(tmp_path / "good.pt", output)
