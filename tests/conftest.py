"""Fixtures that the folders share: the demo model, loaded in PyTorch and exported to a bundle, once per run.

PyTorch is imported by the fixtures that need it, so that the engines' tests alone start at once.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from latentrt.export.source import SourceModel


def pytest_configure() -> None:
    """Hear Ctrl-C: a process of pytest-xdist ignores it, and so would the commands that tests start and stop."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def demo_model() -> SourceModel:
    """The demo checkpoint with averaged weights, as PyTorch modules."""
    from latentrt.benchmarks.demo_model import CHECKPOINT, VAES
    from latentrt.export.source import load_source

    return load_source(CHECKPOINT / "demo.safetensors", vaes=VAES)


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint as `latentrt export` writes it. Tests copy it before they change anything.

    The processes of pytest-xdist share it: the first that needs it exports it, the others wait.
    """
    from filelock import FileLock

    from latentrt.benchmarks.demo_model import CHECKPOINT, VAES
    from latentrt.export.export import export_bundle

    own = tmp_path_factory.getbasetemp()
    bundle = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "demo-bundle"
    with FileLock(f"{bundle}.lock"):
        if not bundle.exists():
            export_bundle(CHECKPOINT / "demo.safetensors", bundle, vaes=VAES)
    return bundle
