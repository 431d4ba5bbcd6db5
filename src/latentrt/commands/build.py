"""`latentrt build`: compile and check every component of a bundle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from latentrt.engines import store
from latentrt.engines.backend import Report, backend_names, get_backend
from latentrt.engines.build_estimate import check_room, estimate
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import unknown_name
from latentrt.engines.key import EngineKey
from latentrt.engines.memory_words import told
from latentrt.engines.options import BuildOptions, checked


def build_command(
    console: Console, path: Path, engine: str, options: BuildOptions, device: int, engine_dir: Path | None
) -> None:
    """Build what is not built yet; prints a line for each component."""
    if engine not in backend_names():  # the fake one has nothing to build
        raise unknown_name("engine", engine, backend_names())
    backend = get_backend(engine, checked(options), device)
    bundle = Bundle.open(path, engine_dir)
    if obstacle := backend.obstacle():
        console.print(f"note: these engines are built, and not checked: {obstacle}", markup=False)
    _estimate(console, bundle, [backend.key(bundle, component) for component in bundle.manifest.components])
    for component in bundle.manifest.components:
        started = time.perf_counter()
        with _progress(console, component) as report:
            record, new = store.build(backend, bundle, component, report)
        seconds = time.perf_counter() - started
        state = f"built in {seconds:.1f} s" if new else "already built"
        print(f"{component:24} {record.key.id}  {state}, {_verdict(record)}")


def _estimate(console: Console, bundle: Bundle, keys: list[EngineKey]) -> None:
    """Tell what those that are not built yet will take, and refuse where the disk has no room for them."""
    found = {key: estimate(bundle, key) for key in keys if not store.engine_folder(bundle, key).exists()}
    for key, takes in found.items():
        console.print(
            f"{key.component:24} about {told(takes.disk)} on disk, and {told(takes.memory)} of memory to build",
            markup=False,
            highlight=False,
        )
    if found:
        scratch = max(takes.room - takes.disk for takes in found.values())  # of one build at a time
        check_room(bundle.engine_dir, sum(takes.disk for takes in found.values()) + scratch)


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
