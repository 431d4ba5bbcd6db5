"""Environments are made whole or not at all; what pip says when it cannot is the reason."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from latentrt.benchmarks.contestants import environments, registry
from latentrt.benchmarks.contestants.environments import default_cache, environment
from latentrt.benchmarks.contestants.registry import Entry, contestant
from latentrt.benchmarks.contestants.remote import Refused

ENTRY = Entry("tiny", "a package of one line", "torch_worker", environment="tiny")


@pytest.fixture
def requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of requirements with one environment, `tiny`, whose only package lies beside it: pip needs no index."""
    folder = tmp_path / "requirements"
    folder.mkdir()
    wheel = folder / "tiny_package-1.2-py3-none-any.whl"
    info = "tiny_package-1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny_package.py", "ANSWER = 42\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.2\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    (folder / "tiny.txt").write_text("# a comment\ntiny-package==1.2  # and another\n\n", encoding="utf-8")
    monkeypatch.setattr(registry, "_REQUIREMENTS", folder)
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    return folder


def test_an_environment_is_made_once_and_says_what_is_in_it(requirements: Path, tmp_path: Path) -> None:
    said: list[str] = []
    python, found = environment(ENTRY, tmp_path / "cache", None, said.append)
    assert found.requirements == ("tiny-package==1.2",)
    assert found.versions == {"tiny-package": "1.2"}
    assert found.installed is not None
    assert found.installed > 0
    assert found.python.split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    answer = subprocess.run(
        [str(python), "-c", "import tiny_package; print(tiny_package.ANSWER)"], check=True, capture_output=True
    )
    assert answer.stdout == b"42\n"
    assert environment(ENTRY, tmp_path / "cache", None, said.append) == (python, found)
    assert said == ["making the environment of tiny"]


def test_other_requirements_have_another_environment(requirements: Path, tmp_path: Path) -> None:
    first, _ = environment(ENTRY, tmp_path / "cache", None, print)
    (requirements / "tiny.txt").write_text("Tiny.Package==1.2\n", encoding="utf-8")
    second, found = environment(ENTRY, tmp_path / "cache", None, print)
    assert first != second
    assert found.requirements == ("Tiny.Package==1.2",)


def test_what_pip_cannot_find_is_the_reason_and_nothing_is_left(requirements: Path, tmp_path: Path) -> None:
    (requirements / "tiny.txt").write_text("tiny-package==1.2\nno-such-package==3.0\n", encoding="utf-8")
    with pytest.raises(
        Refused, match=r"^its environment cannot be made: No matching distribution found for no-such-package==3\.0$"
    ):
        environment(ENTRY, tmp_path / "cache", None, print)
    assert list((tmp_path / "cache" / "environments").iterdir()) == []


def test_an_interruption_leaves_no_environment(
    requirements: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path, asked: object) -> None:
        (folder / "bin").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(environments, "_install", interrupted)
        with pytest.raises(KeyboardInterrupt):
            environment(ENTRY, tmp_path / "cache", None, print)
    assert list((tmp_path / "cache" / "environments").iterdir()) == []
    assert environment(ENTRY, tmp_path / "cache", None, print)[1].versions == {"tiny-package": "1.2"}


def test_a_cache_that_cannot_be_written_is_named(requirements: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    with pytest.raises(Refused, match=r"^its environment cannot be made: .*cache"):
        environment(ENTRY, tmp_path / "cache", None, print)


def test_a_given_interpreter_is_taken_as_it_is(tmp_path: Path) -> None:
    venv.create(tmp_path / "given", with_pip=False)
    given = tmp_path / "given" / "bin" / "python"
    python, found = environment(contestant("torch"), tmp_path / "cache", given, print)
    assert python == given
    assert (found.requirements, found.versions, found.installed) == ((), {}, None)
    with pytest.raises(Refused, match=r"nowhere is no Python interpreter: "):
        environment(contestant("torch"), tmp_path / "cache", tmp_path / "nowhere", print)


def test_latentrt_runs_where_the_trial_runs(tmp_path: Path) -> None:
    python, found = environment(contestant("latentrt:onnxruntime"), tmp_path / "cache", None, print)
    assert python == Path(sys.executable)
    assert {"latentrt", "numpy", "onnxruntime"} <= found.versions.keys()
    assert "torch" not in found.versions  # it is here, and latentrt does not need it
    assert found.installed is not None
    assert found.installed > 50e6


def test_the_cache_is_where_users_keep_theirs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "latentrt" / "bench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "latentrt" / "bench"
