"""The server that most tests ask: the demo bundle with fake engines, and their UNet to hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.serving import Running, Unet, serving


@pytest.fixture(scope="session")
def shared(demo_bundle: Path) -> Iterator[Running]:
    """One server for the tests that leave it as they found it."""
    with serving(demo_bundle, Unet().opening(demo_bundle), max_queue=1, max_rows=4, model_name="demo") as server:
        yield server


@pytest.fixture
def unet() -> Unet:
    """The UNet of `running`."""
    return Unet()


@pytest.fixture
def running(demo_bundle: Path, unet: Unet) -> Iterator[Running]:
    """A server that holds two guided pictures at once, and lets one more wait."""
    with serving(demo_bundle, unet.opening(demo_bundle), max_rows=4, max_queue=1, model_name="demo") as server:
        yield server
