"""Fixtures that the folders share: the demo model, loaded in PyTorch and exported to a bundle, once per run.

PyTorch is imported by the fixtures that need it, so that the engines' tests alone start at once.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.made_once import made_once

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
    """The demo checkpoint as `latentrt export` writes it. Tests copy it before they change anything."""
    from latentrt.benchmarks.demo_model import CHECKPOINT, VAES
    from latentrt.export.export import export_bundle

    return made_once(
        tmp_path_factory,
        "demo-bundle",
        lambda folder: export_bundle(CHECKPOINT / "demo.safetensors", folder, vaes=VAES),
    )
