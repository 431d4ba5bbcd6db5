"""Write a model repository for Triton: config.pbtxt, a tiny model.py, and the bundle unless it lies elsewhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from latentrt.engines.atomic import new_folder
from latentrt.engines.bundle import ENGINES, Bundle
from latentrt.engines.errors import InputError
from latentrt.engines.manifest import FILE_NAME

from .config import config_text
from .parameters import Parameters

VERSION = "1"  # the one folder of the model; Triton counts versions from 1
BUNDLE = "bundle"  # beside model.py
MODEL_PY = '''\
"""The whole loop of one bundle, in Triton's Python backend. Its settings are the parameters of config.pbtxt.

Triton's Python needs latentrt: pip install 'latentrt[cpu,serve]', or another engine's extra in place of cpu.
"""

from latentrt.runtime.serve.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def write_repository(output: Path, name: str, parameters: Parameters, bundle: Bundle | None) -> Path:
    """Write the model `name` into the repository `output`, which may be there with other models; returns its folder.

    The files of `bundle`, each checked, are copied with its engines; without one `parameters.bundle` says where the
    serving machine has it.

    Raises:
        InputError: no name that Triton takes, or a parameter is out of range.
        BundleError: a file of the bundle is missing or altered.
        OutputError: the repository has this model already, or cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"a model's name has letters, digits, '_', '-' and '.'; got {name!r}: give a --model-name")
    parameters.settings(name)
    with ExitStack() as stack:
        if output.exists():
            model = stack.enter_context(new_folder(output / name))
        else:
            model = stack.enter_context(new_folder(output)) / name
        version = model / VERSION
        version.mkdir(parents=True)
        if bundle is not None:
            _copy(bundle, version / BUNDLE)
        (version / "model.py").write_text(MODEL_PY, encoding="utf-8")
        (model / "config.pbtxt").write_text(config_text(parameters), encoding="utf-8")
    return output / name


def _copy(bundle: Bundle, target: Path) -> None:
    for path in bundle.manifest.files:
        _copy_file(bundle.file(path), target / path)
    _copy_file(bundle.root / FILE_NAME, target / FILE_NAME)
    if bundle.engine_dir.is_dir():
        # of a packed bundle they are listed, and were copied above
        shutil.copytree(bundle.engine_dir, target / ENGINES, ignore=_hidden, dirs_exist_ok=True)


_hidden: Callable[..., set[str]] = shutil.ignore_patterns(".*")  # builds under way


def _copy_file(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
