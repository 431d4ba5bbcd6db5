"""Caches come back as they were written, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentrt.engines.tensorrt_rtx_backend import BACKEND
from latentrt.engines.trt.cuda import Gpu
from latentrt.engines.trt.sealed import read_sealed, write_sealed
from latentrt.engines.trt.timing_cache import timing_file


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "x.cache"
    for content in (b"one", b"another", b""):
        write_sealed(file, content)
        assert read_sealed(file) == content
    assert [entry.name for entry in file.parent.iterdir()] == ["x.cache"]


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d + b"x", lambda d: b"\0" + d[1:], lambda d: b""])
def test_damage_is_no_cache(tmp_path: Path, damage) -> None:
    file = tmp_path / "x.cache"
    write_sealed(file, b"kernels")
    file.write_bytes(damage(file.read_bytes()))
    assert read_sealed(file) is None


def test_what_is_missing_or_linked_is_no_cache(tmp_path: Path) -> None:
    assert read_sealed(tmp_path / "missing") is None
    write_sealed(tmp_path / "x.cache", b"kernels")
    (tmp_path / "link").symlink_to("x.cache")
    assert read_sealed(tmp_path / "link") is None


def test_a_place_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    write_sealed(tmp_path / "file" / "x.cache", b"kernels")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_measured_kernels_belong_to_a_gpu_a_version_and_a_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    which = (("NVIDIA L4", "13.0"), ("NVIDIA L4", "13.1"), ("../../NVIDIA L40S", "13.0"))
    gpus = [Gpu(name, "sm89", driver) for name, driver in which]
    files = {timing_file(BACKEND.family, gpu) for gpu in gpus}
    assert len(files) == 3
    assert {file.parent for file in files} == {tmp_path / "latentrt" / "timing"}
    assert all(BACKEND.family.version in file.name for file in files)
