# ruff: noqa: PT012 - how a block ends is what is tested here
"""Whole or not at all: what is at the target, and beside it, after every way a block can end."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from latentrt.engines.atomic import new_file, new_folder
from latentrt.engines.errors import OutputError


def _fill(kind: str, place: Path, text: str) -> None:
    (place / "inside.txt" if kind == "folder" else place).write_text(text)


def _read(kind: str, place: Path) -> str:
    return (place / "inside.txt" if kind == "folder" else place).read_text()


OPEN: dict[str, Callable[..., AbstractContextManager[Path]]] = {"file": new_file, "folder": new_folder}
both = pytest.mark.parametrize("kind", OPEN)


@both
def test_result_appears_only_at_the_end(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with OPEN[kind](target) as place:
        _fill(kind, place, "new")
        assert not target.exists()
        assert place.parent == tmp_path  # same file system, so the rename is one step
        assert place.name.startswith(".")
    assert _read(kind, target) == "new"
    assert list(tmp_path.iterdir()) == [target]


@both
def test_overwrite_replaces(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    for text in ("old", "new"):
        with OPEN[kind](target, overwrite=True) as place:
            _fill(kind, place, text)
    assert _read(kind, target) == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_replaced_folder_keeps_none_of_its_files(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "stale").touch()
    with new_folder(target, overwrite=True) as place:
        _fill("folder", place, "new")
    assert [path.name for path in target.iterdir()] == ["inside.txt"]


@both
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, MemoryError])
@pytest.mark.parametrize("before", [False, True])
def test_any_error_leaves_what_was_there(kind: str, error: type[BaseException], before: bool, tmp_path: Path) -> None:
    target = tmp_path / "out"
    if before:
        with OPEN[kind](target) as place:
            _fill(kind, place, "old")
    with pytest.raises(error), OPEN[kind](target, overwrite=True) as place:
        _fill(kind, place, "half")
        raise error
    assert list(tmp_path.iterdir()) == ([target] if before else [])
    assert not before or _read(kind, target) == "old"


@pytest.mark.parametrize("renames_before_it", [0, 1])
def test_ctrl_c_between_the_two_renames_puts_the_old_folder_back(
    renames_before_it: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    with new_folder(target) as place:
        _fill("folder", place, "old")
    rename, calls = Path.rename, []

    def interrupted(self: Path, to: Path) -> Path:
        calls.append(to)
        if len(calls) == 1 + renames_before_it:
            raise KeyboardInterrupt
        return rename(self, to)

    with pytest.raises(KeyboardInterrupt), new_folder(target, overwrite=True) as place:
        _fill("folder", place, "new")
        monkeypatch.setattr(Path, "rename", interrupted)
    assert _read("folder", target) == "old"
    assert list(tmp_path.iterdir()) == [target]


def _occupy_file(target: Path) -> None:
    target.write_text("precious")


def _occupy_folder(target: Path) -> None:
    target.mkdir()
    (target / "precious").touch()


def _occupy_link(target: Path) -> None:
    elsewhere = target.with_name("elsewhere")
    elsewhere.mkdir()
    target.symlink_to(elsewhere)


def _occupy_broken_link(target: Path) -> None:
    target.symlink_to(target.with_name("nowhere"))


REFUSALS: list[Any] = [
    pytest.param("file", False, _occupy_file, "is there already", id="file on file"),
    pytest.param("folder", False, _occupy_folder, "is there already", id="folder on folder"),
    pytest.param("file", True, _occupy_folder, "not a plain file", id="file on folder"),
    pytest.param("folder", True, _occupy_file, "not a plain folder", id="folder on file"),
    pytest.param("folder", True, _occupy_link, "not a plain folder", id="folder on link"),
    pytest.param("file", True, _occupy_link, "not a plain file", id="file on link"),
    pytest.param("file", True, _occupy_broken_link, "not a plain file", id="file on broken link"),
]


@pytest.mark.parametrize(("kind", "overwrite", "occupy", "message"), REFUSALS)
def test_refuses_before_any_work(
    kind: str, overwrite: bool, occupy: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    occupy(target)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=message) as caught, OPEN[kind](target, overwrite=overwrite):
        pytest.fail("the block must not run")
    assert str(target) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_never_replaces_a_device() -> None:
    with pytest.raises(OutputError, match="not a plain file"), new_file(Path("/dev/null"), overwrite=True):
        pytest.fail("the block must not run")


@both
def test_a_folder_that_is_not_there_is_named(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "missing" / "out"
    with pytest.raises(OutputError, match="missing does not exist; create it first"), OPEN[kind](target):
        pytest.fail("the block must not run")
    assert not target.parent.exists()


@both
def test_a_parent_that_is_a_file_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is not a folder"), OPEN[kind](tmp_path / "file" / "out"):
        pytest.fail("the block must not run")


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    with pytest.raises(OutputError, match="disk is full") as caught, new_file(target) as place:
        place.symlink_to("/dev/full")  # Linux answers "no space left" to every write there
        place.write_bytes(bytes(100))
    assert str(target) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@both
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.EFBIG, "no file of this size"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_errors_of_writing_name_the_target(kind: str, code: int, message: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(OutputError, match=message) as caught, OPEN[kind](target) as place:
        raise OSError(code, "Input/output error", str(place / "part"))
    assert str(target) in str(caught.value)
    assert ".partial" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@both
def test_errors_about_other_files_pass_unchanged(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), OPEN[kind](tmp_path / "out"):
        (tmp_path / "source").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_comes_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(OutputError, match="not empty"), new_folder(target) as place:
        _fill("folder", place, "mine")
        target.mkdir()
        _fill("folder", target, "theirs")
    assert _read("folder", target) == "theirs"
    assert list(tmp_path.iterdir()) == [target]
