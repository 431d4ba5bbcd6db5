"""`latentrt build`: compile and check every component of a bundle."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from latentrt.engines import store
from latentrt.engines.backend import get_backend
from latentrt.engines.bundle import Bundle


def build_command(console: Console, path: Path, engine: str) -> None:
    """Build what is not built yet; prints a line for each component."""
    bundle = Bundle.open(path)
    backend = get_backend(engine)
    for component in bundle.manifest.components:
        started = time.perf_counter()
        with console.status(f"building {component} for {engine}"):
            record, new = store.build(backend, bundle, component)
        seconds = time.perf_counter() - started
        state = f"built in {seconds:.1f} s" if new else "already built"
        print(f"{component:24} {record.key.id}  {state}, {record.verification.error:.1e} from PyTorch")
