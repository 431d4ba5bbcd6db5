"""Where contestants run: a virtual environment of its own for each, made by pip once and kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from latentrt.engines.atomic import new_folder
from latentrt.engines.errors import OutputError

from ..gpu_libraries import environment as own_variables
from ..installed import Installed, installed_for, installed_in
from ..trial.results import Environment
from .registry import LATENTRT, Entry, pinned
from .remote import Refused, Remote

WORKERS = Path(__file__).resolve().parent  # the folder that holds the package `workers`
_ASK = "import json, platform, sysconfig; print(json.dumps([platform.python_version(), sysconfig.get_path('purelib')]))"
_SECONDS = 60  # that an interpreter has to say what it is


def default_cache() -> Path:
    """Where environments and converted models are kept: `latentrt/bench` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentrt" / "bench"


def environment(
    entry: Entry, cache: Path, given: Path | None, report: Callable[[str], None]
) -> tuple[Path, Environment]:
    """The interpreter that runs a contestant, and what is in its environment.

    That is `given` where it is not None; for latentrt the one that runs this; else one that is made in `cache`.

    Raises:
        Refused: it cannot be made, with pip's last words, or `given` is no interpreter.
    """
    if given is not None:
        return given, _described(given)
    if entry.environment is None:
        found = installed_for(LATENTRT, entry.extras)
        return Path(sys.executable), _as_results(_python_version(sys.version_info), (), found)
    return _made(entry.environment, cache, report)


def exporter(entry: Entry, cache: Path, report: Callable[[str], None]) -> Path:
    """The interpreter in which a contestant's own exporter runs; raises as `environment`."""
    assert entry.exporter is not None
    return _made(entry.exporter, cache, report)[0]


def start(entry: Entry, python: Path, log: Path, threads: int | None = None) -> Remote:
    """Start a contestant's worker, with so many cores where `threads` says so."""
    variables = own_variables()
    inherited = [variables["PYTHONPATH"]] if entry.environment is None and variables.get("PYTHONPATH") else []
    variables |= {"PYTHONPATH": os.pathsep.join([str(WORKERS), *inherited]), "HF_HUB_OFFLINE": "1"}
    return Remote([str(python), "-m", f"workers.{entry.worker}"], log, variables, threads)


def _made(name: str, cache: Path, report: Callable[[str], None]) -> tuple[Path, Environment]:
    """The environment of `requirements/NAME.txt`; its folder's name says what is in it, so that no other is taken."""
    requirements = pinned(name)
    version = _python_version(sys.version_info)
    key = hashlib.sha256("\n".join([version, *requirements]).encode()).hexdigest()[:12]
    folder = cache / "environments" / f"{name}-{key}"
    if not folder.is_dir():
        report(f"making the environment of {name}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with new_folder(folder) as place:
                _install(place, requirements)
        except (OSError, OutputError) as error:
            raise Refused(f"its environment cannot be made: {error}") from error
    [packages] = folder.glob("lib/python*/site-packages")
    return folder / "bin" / "python", _as_results(version, requirements, installed_in(packages))


def _install(folder: Path, requirements: Sequence[str]) -> None:
    """Fill an empty folder with a virtual environment; pip stays outside, so it is not counted."""
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check"]
    _run([*pip, "install", "--quiet", *requirements])


def _run(command: Sequence[str]) -> None:
    ended = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ended.returncode:
        lines = [line.strip() for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines or [f"code {ended.returncode}"]
        raise Refused(f"its environment cannot be made: {errors[-1].removeprefix('ERROR:').strip()}"[:400])


def _described(python: Path) -> Environment:
    """What an interpreter that somebody else made has; its size is not this contestant's alone, so it is not told."""
    try:
        ended = subprocess.run(
            [str(python), "-c", _ASK], check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS
        )
        version, packages = msgspec.json.decode(ended.stdout, type=tuple[str, str])
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
        raise Refused(f"{python} is no Python interpreter: {error}") from error
    return Environment(python=version, versions=installed_in(Path(packages)).versions)


def _as_results(python: str, requirements: tuple[str, ...], found: Installed) -> Environment:
    return Environment(python=python, requirements=requirements, versions=found.versions, installed=found.size)


def _python_version(info: Sequence[object]) -> str:
    return ".".join(map(str, info[:3]))
