"""A bench that somebody runs meanwhile is no matter for a test: its lock is elsewhere."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_lock(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder of the test's own, where the lock goes."""
    folder = tmp_path_factory.mktemp("lock")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
