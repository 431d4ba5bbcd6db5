"""The container files: what they promise, and the server as they start it, without a place to write to."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from support.serving import GENERATIONS, Unet, serving, until

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "docs" / "containers").glob("*.Containerfile"))
CONTAINERS = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
ONCE = ("USER", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD")


def instructions(file: Path) -> list[tuple[str, str]]:
    """(word, the rest) of each instruction, with its lines joined."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def told(file: Path, word: str) -> str:
    """What the one instruction of this word says, which is in the last stage."""
    [last] = [rest for name, rest in instructions(file) if name == word]
    return last


def health_check(file: Path) -> list[str]:
    """The command, as the container's engine would run it."""
    _, _, command = told(file, "HEALTHCHECK").partition("CMD ")
    words: list[str] = json.loads(command)
    return words


def test_there_are_the_two_variants() -> None:
    assert [file.name for file in FILES] == ["cpu.Containerfile", "cuda.Containerfile"]


@CONTAINERS
def test_it_runs_as_nobody_in_exec_form_and_leaves_the_build_behind(file: Path) -> None:
    steps = instructions(file)
    starts = [index for index, (word, _) in enumerate(steps) if word == "FROM"]
    assert [steps[index][1] for index in starts] == ["${BASE} AS build", "${BASE}"]
    last = [word for word, _ in steps[starts[1] :]]
    assert [word for word in last if word in {"RUN", "ADD"}] == []
    assert [word for word in last if word in ONCE] == list(ONCE)
    assert told(file, "USER") == "10001:10001"
    assert told(file, "STOPSIGNAL") == "SIGTERM"
    assert json.loads(told(file, "ENTRYPOINT")) == ["/opt/latentrt/bin/latentrt"]
    assert json.loads(told(file, "CMD"))[:2] == ["serve", "/bundle"]


@CONTAINERS
def test_what_it_installs_is_pinned_and_there(file: Path) -> None:
    [base] = [rest for word, rest in instructions(file) if word == "ARG"]
    assert re.fullmatch(r"BASE=\S+:\d+\.\d+\.\d+-\S+", base)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [install] = re.findall(r"pip install .*?--constraint constraints.txt '\.\[(.*?)\]'", file.read_text())
    assert set(install.split(",")) <= set(extras)
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    for wanted in (one for extra in install.split(",") for one in extras[extra]):
        assert re.split(r"[\[>=]", wanted)[0] in pinned
    for word, rest in instructions(file):
        if word == "COPY" and not rest.startswith("--from"):
            assert all((ROOT / name).exists() for name in rest.split()[:-1])


@CONTAINERS
def test_its_health_check_asks_the_server_and_bears_with_one_that_drains(file: Path, demo_bundle: Path) -> None:
    python, *words = health_check(file)
    assert python == "/opt/latentrt/bin/python"
    with serving(demo_bundle, Unet().opening(demo_bundle)) as server:
        command = [sys.executable, *(word.replace(":8000", f":{server.port}") for word in words)]
        assert command[-1] != words[-1]
        proxied = os.environ | {"http_proxy": "http://127.0.0.1:9"}  # nobody listens there
        assert subprocess.run(command, env=proxied, check=False).returncode == 0
        server.service.draining = True
        assert subprocess.run(command, check=False).returncode == 0
        assert server.client.get("/readyz").status_code == 503
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 1


@pytest.fixture
def read_only(demo_bundle: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody may write to, with the bundle in it."""
    folder = tmp_path / "read-only"
    shutil.copytree(demo_bundle, folder / "bundle")
    places = [folder, *folder.rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    yield folder
    for place in places:
        place.chmod(0o755)  # so that pytest can clear it away


@pytest.fixture
def bereft() -> list[str]:
    """What stands before a command that may do no more than in the container: root is to write to what is its own."""
    if os.geteuid() != 0:
        return []
    if (setpriv := shutil.which("setpriv")) is None:
        pytest.skip("root without setpriv, of util-linux, can write everywhere")
    return [setpriv, "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]


def test_the_server_draws_and_stops_without_rights_and_with_nowhere_to_write(
    read_only: Path, bereft: list[str]
) -> None:
    assert subprocess.run([*bereft, "touch", read_only / "x"], capture_output=True, check=False).returncode == 1
    words = json.loads(told(FILES[0], "CMD"))
    arguments = [str(read_only / "bundle") if word == "/bundle" else word for word in words]
    command = [*bereft, sys.executable, "-c", "from latentrt.cli import main; main()", *arguments, "--port", "0"]
    environment = os.environ | {"HOME": str(read_only), "PYTHONDONTWRITEBYTECODE": "1"}
    before = sorted(read_only.rglob("*"))
    process = subprocess.Popen(command, cwd=read_only, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process, process.stderr as lines:
        listening = next(line for line in lines if line.startswith("{"))
        port = json.loads(listening)["url"].rpartition(":")[2]
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            until(lambda: client.get("/readyz").status_code == 200, "readiness")
            answer = client.post(GENERATIONS, json={"prompt": "a star", "num_inference_steps": 2, "size": "64x64"})
            assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert sorted(read_only.rglob("*")) == before
