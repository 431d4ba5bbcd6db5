"""Files of textual inversions, and their words in a prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from latentrt.engines.errors import InputError
from latentrt.runtime.prompt.textual_inversion import NewTokens, TextualInversion, read_textual_inversion
from latentrt.runtime.tokenizer import VOCABULARY

V = np.arange(24, dtype=np.float32).reshape(3, 8)


def write(path: Path, **tensors: np.ndarray) -> Path:
    save_file(tensors, path)
    return path


def test_the_word_is_the_one_given_or_the_files(tmp_path: Path) -> None:
    diffusers_form = write(tmp_path / "a.safetensors", **{"<cat-toy>": V[0].astype(np.float16)})
    webui_form = write(tmp_path / "bad-hands-5.safetensors", emb_params=V)
    found = read_textual_inversion(diffusers_form)
    assert (found.token, found.vectors.shape, found.vectors.dtype) == ("<cat-toy>", (1, 8), np.float32)
    assert read_textual_inversion(webui_form).token == "bad-hands-5"
    np.testing.assert_array_equal(read_textual_inversion(webui_form).vectors, V)
    assert read_textual_inversion(webui_form, "x").token == "x"


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"clip_l": V, "clip_g": V}, "Stable Diffusion XL"),
        ({"a": V, "b": V}, "holds 2 tensors"),
        ({"a": V.astype(np.int32)}, "1 to 75 vectors of floats"),
        ({"a": np.zeros((76, 8), np.float32)}, "1 to 75 vectors"),
        ({"a": V + np.inf}, "NaN or infinity"),
        ({" ": V}, "cannot be a word"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, tensors: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_textual_inversion(write(tmp_path / "x.safetensors", **tensors))


def test_pickles_and_damage_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="latentrt import-embedding"):
        read_textual_inversion(tmp_path / "x.pt")
    with pytest.raises(InputError, match="cannot read"):
        read_textual_inversion(tmp_path / "none.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"\x10" * 40)
    with pytest.raises(InputError, match="not a safetensors file"):
        read_textual_inversion(tmp_path / "x.safetensors")


def loaded(*names: str) -> NewTokens:
    tokens = NewTokens(8)
    for name in names:
        tokens.add(TextualInversion(name, V[: len(tokens._loaded) + 1], "0" * 64))
    return tokens


A, B = (VOCABULARY,), (VOCABULARY + 1, VOCABULARY + 2)  # one vector, then two


@pytest.mark.parametrize(
    ("names", "text", "parts"),
    [
        ((), "a cat", ["a cat"]),
        (("<toy>",), "a<toy>,<TOY>", ["a", A, ",", A, ""]),
        (("cat",), "a cat, concatenate Cat's cat2 cat_x", ["a ", A, ", concatenate ", A, "'s cat2 ", A, "_x"]),
        (("<a>", "<a>-b"), "<a> <a>-b", ["", A, " ", B, ""]),  # the longest name that fits
        (("bad-hands-5", "my style"), "my style bad-hands-5 bad-hands-52", ["", B, " ", A, " bad-hands-52"]),
        (("größe",), "GRÖSSE Größe", ["GRÖSSE ", A, ""]),
    ],
)
def test_words_are_found(names: tuple[str, ...], text: str, parts: list[object]) -> None:
    assert list(loaded(*names).split(text)) == parts


def test_ids_lead_to_vectors_and_names() -> None:
    tokens = loaded("<a>", "<bb>")
    np.testing.assert_array_equal(tokens.vector(B[1]), V[1])
    assert tokens.named(B[1]).token == "<bb>"


def test_a_word_is_taken_once_and_widths_must_fit() -> None:
    tokens = loaded("<a>")
    with pytest.raises(InputError, match="loaded already"):
        tokens.add(TextualInversion("<A>", V, ""))
    with pytest.raises(InputError, match="vectors 4 wide; this model's text encoder takes 8"):
        tokens.add(TextualInversion("<b>", V[:, :4], ""))
