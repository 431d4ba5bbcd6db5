"""Fixtures that the folders share: the demo model, loaded in PyTorch and exported to a bundle, once per run.

PyTorch is imported by the fixtures that need it, so that the engines' tests alone start at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from latentrt.export.source import SourceModel


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

    bundle = tmp_path_factory.mktemp("demo") / "bundle"
    export_bundle(CHECKPOINT / "demo.safetensors", bundle, vaes=VAES)
    return bundle
