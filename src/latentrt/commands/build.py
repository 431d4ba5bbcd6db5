"""`latentrt build`: compile and check every component of a bundle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from latentrt.engines import store
from latentrt.engines.backend import Report, get_backend
from latentrt.engines.bundle import Bundle
from latentrt.engines.options import BuildOptions, checked


def build_command(console: Console, path: Path, engine: str, options: BuildOptions, engine_dir: Path | None) -> None:
    """Build what is not built yet; prints a line for each component."""
    backend = get_backend(engine, checked(options))
    bundle = Bundle.open(path, engine_dir)
    if obstacle := backend.obstacle():
        console.print(f"note: these engines are built, and not checked: {obstacle}", markup=False)
    for component in bundle.manifest.components:
        started = time.perf_counter()
        with _progress(console, component) as report:
            record, new = store.build(backend, bundle, component, report)
        seconds = time.perf_counter() - started
        state = f"built in {seconds:.1f} s" if new else "already built"
        print(f"{component:24} {record.key.id}  {state}, {_verdict(record)}")


def _verdict(record: store.EngineRecord) -> str:
    return "not checked" if record.verification is None else f"{record.verification.error:.1e} from PyTorch"


@contextmanager
def _progress(console: Console, component: str) -> Iterator[Report]:
    """A bar for one component; yields what its backend reports to."""
    columns = (TextColumn("building {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(component, total=1.0)

        def report(doing: str, share: float) -> None:
            bar.update(task, description=f"{component}: {doing}", completed=share)

        yield report
