"""The licence, its use restrictions and the NOTICE: found, named, completed, never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentrt.engines.errors import InputError
from latentrt.engines.licence import OPENRAIL_M
from latentrt.engines.manifest import Licence
from latentrt.export.licence import (
    CHANGES,
    complete_notice,
    find_licence,
    licence_name,
    use_restrictions,
    write_licence,
)

# The shape of CreativeML OpenRAIL-M: paragraph 5 names the attachment, also at the start of a line, before it comes.
OPENRAIL = """Copyright (c) 2022 somebody

CreativeML Open RAIL-M
dated August 22, 2022

Section I: PREAMBLE

5. Use-based restrictions. The restrictions set forth in
Attachment A are considered Use-based restrictions. Therefore You cannot use the Model for them.

END OF TERMS AND CONDITIONS

Attachment A

Use Restrictions

You agree not to use the Model or Derivatives of the Model:
- In any way that violates any applicable law;
- To defame, disparage or otherwise harass others.
"""
ATTACHED = OPENRAIL[OPENRAIL.index("Attachment A\n\nUse") :]
MIT = "MIT License\n\nPermission is hereby granted, free of charge"
PROVENANCE = {"source": "v1-5.safetensors", "source.sha256": "ab" * 32, "weights": "ema"}


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    (tmp_path / "beside").mkdir()
    return tmp_path / "beside"


def write(files: dict[str, Path], folder: Path, name: str = OPENRAIL_M) -> Licence:
    (folder / "bundle").mkdir()
    return write_licence(name, files, folder / "bundle", PROVENANCE)


@pytest.mark.parametrize(
    ("text", "assumed", "name"),
    [
        (OPENRAIL, OPENRAIL_M, OPENRAIL_M),
        (OPENRAIL.replace("Open RAIL-M", "OpenRAIL-M"), "Apache-2.0", OPENRAIL_M),
        (OPENRAIL.replace("Open RAIL-M", "Open RAIL++-M License"), OPENRAIL_M, "CreativeML OpenRAIL++-M"),
        (MIT, OPENRAIL_M, "see LICENSE-MODEL"),
        ("Apache License\nVersion 2.0", "Apache-2.0", "Apache-2.0"),
        (MIT + " " * 3000 + "CreativeML Open RAIL-M", OPENRAIL_M, "see LICENSE-MODEL"),  # mentioned, not the title
    ],
)
def test_the_name_is_the_texts_own(beside: Path, text: str, assumed: str, name: str) -> None:
    (beside / "LICENSE-MODEL").write_text(text)
    assert licence_name(find_licence(beside), assumed) == name


def test_without_a_text_the_name_is_what_the_model_states(beside: Path) -> None:
    assert find_licence(beside) == {}
    assert licence_name({}, OPENRAIL_M) == OPENRAIL_M


@pytest.mark.parametrize("name", ["LICENSE", "LICENSE.md", "LICENCE.txt"])
def test_a_plain_licence_is_taken_only_where_it_is_a_models(beside: Path, name: str) -> None:
    (beside / name).write_text(OPENRAIL)
    assert find_licence(beside) == {"LICENSE-MODEL": beside / name}
    (beside / name).write_text(MIT)  # of code, perhaps
    assert find_licence(beside) == {}


def test_a_given_licence_goes_before_one_beside(beside: Path, tmp_path: Path) -> None:
    (beside / "LICENSE-MODEL").write_text("other")
    given = tmp_path / "openrail.txt"
    given.write_text(OPENRAIL)
    assert find_licence(beside, given) == {"LICENSE-MODEL": given}


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), (b"", "no text"), (b"\x00\x01", "no text"), (b"\xff\xfe\xfa", "no text in UTF-8")],
)
def test_a_given_licence_that_is_no_text_is_refused(beside: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (beside / "given").write_bytes(content)
    with pytest.raises(InputError, match=f"--license .*given .*{said}"):
        find_licence(beside, beside / "given")


@pytest.mark.parametrize("heading", ["Attachment A", "## Attachment A", "ATTACHMENT A: Use Restrictions"])
def test_the_attachment_is_cut_out_word_for_word(heading: str) -> None:
    text = OPENRAIL.replace("\nAttachment A\n", f"\n{heading}\n")
    assert use_restrictions(text) == ATTACHED.replace("Attachment A", heading)


@pytest.mark.parametrize("text", [MIT, OPENRAIL[: OPENRAIL.index("END OF")], ""])
def test_a_licence_without_restrictions_gives_none(text: str) -> None:
    assert use_restrictions(text) is None


def test_openrail_alone_is_complete_in_the_bundle(beside: Path, tmp_path: Path) -> None:
    (beside / "LICENSE").write_text(OPENRAIL)
    licence = write(find_licence(beside), tmp_path)
    assert licence == Licence(name=OPENRAIL_M, files=("LICENSE-MODEL", "NOTICE", "USE_RESTRICTIONS"), missing=())
    files = {file.name: file.read_text() for file in (tmp_path / "bundle").iterdir()}
    assert files.keys() == set(licence.files)
    assert (files["LICENSE-MODEL"], files["USE_RESTRICTIONS"]) == (OPENRAIL, ATTACHED)
    for told in ("source.sha256: " + "ab" * 32, "weights: ema", "ONNX", "fp32", "modified files", OPENRAIL_M):
        assert told in files["NOTICE"]


def test_what_is_missing_is_said_and_the_notice_says_it_too(beside: Path, tmp_path: Path) -> None:
    licence = write(find_licence(beside), tmp_path)
    assert licence == Licence(name=OPENRAIL_M, files=("NOTICE",), missing=("LICENSE-MODEL", "USE_RESTRICTIONS"))
    assert "Its text was not beside the model" in (tmp_path / "bundle/NOTICE").read_text()


def test_restrictions_beside_the_model_go_before_the_attachment(beside: Path, tmp_path: Path) -> None:
    (beside / "LICENSE-MODEL").write_text(OPENRAIL)
    (beside / "USE_RESTRICTIONS.txt").write_text("none")
    assert write(find_licence(beside), tmp_path).missing == ()
    assert (tmp_path / "bundle/USE_RESTRICTIONS").read_text() == "none"


def test_a_notice_is_kept_and_completed_once() -> None:
    licence = Licence(name="Apache-2.0", files=("LICENSE-MODEL", "NOTICE"))
    first = complete_notice("Copyright 2026 the authors\n", licence, PROVENANCE)
    assert first.startswith("Copyright 2026 the authors\n\n" + CHANGES)
    again = complete_notice(first, licence, PROVENANCE | {"weights": "raw"})
    assert again == first.replace("weights: ema", "weights: raw")
