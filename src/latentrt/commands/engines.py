"""`latentrt inspect --engines`: what each compiled engine is, and whether and why it serves here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from latentrt.engines import store
from latentrt.engines.backend import device_name, get_backend
from latentrt.engines.bundle import Bundle
from latentrt.engines.choice import misfit
from latentrt.engines.errors import EngineError
from latentrt.engines.options import BuildOptions

from .printing import say


def inspect_engines(path: Path, engine_dir: Path | None, device: int) -> None:
    """Print every stored engine, once its files are checked."""
    bundle = Bundle.open(path, engine_dir)
    found = store.stored(bundle)
    if not found:
        say(f"no engines in {bundle.engine_dir}: run 'latentrt build {path}'; onnxruntime also opens the graphs as is")
    for record in found:
        if isinstance(record, EngineError):
            say(f"damaged: {record}")
        else:
            for line in _lines(bundle, record, device):
                say(line)


def fit(bundle: Bundle, record: store.EngineRecord, device: int) -> str:
    """Whether an engine serves here, and if not, why: which part of its key differs, or what its check found."""
    if reason := misfit(bundle, record, device):
        return reason
    if record.verification is None:
        return "fits this machine; not yet checked on it"
    if failures := record.verification.failures:
        return f"failed verification: {'; '.join(failures)}"
    here = device_name(get_backend(record.key.backend, record.options, device))
    return (
        "fits this machine" if record.verification.device == here else f"fits this machine; not yet checked on {here}"
    )


def _lines(bundle: Bundle, record: store.EngineRecord, device: int) -> Iterator[str]:
    key = record.key
    yield f"{key.id} {key.component}: {fit(bundle, record, device)}"
    yield f"  engine           {key.backend} {key.backend_version}, {key.precision}"
    yield f"  device           {key.device}"
    yield f"  profile          {key.profile}"
    if options := _options(record.options):
        yield f"  built with       {options}"
    if key.flags:
        yield f"  flags            {' '.join(key.flags)}"
    size = sum(file.size for file in record.files.values())
    yield (
        f"  on disk          {size / 1e6:.1f} MB" if record.files else "  on disk          nothing: the graph as it is"
    )
    yield f"  verification     {_verification(record)}"


def _options(options: BuildOptions) -> str:
    """The options of `latentrt build` that were not left at their defaults."""
    return ", ".join(f"{name} {_words(getattr(options, name))}" for name in sorted(options.chosen))


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join("x".join(map(str, item)) if isinstance(item, tuple) else str(item) for item in value)
    return str(value)


def _verification(record: store.EngineRecord) -> str:
    found = record.verification
    if found is None:
        return "none yet: built for a machine that was not there"
    error = "no number" if found.error is None else f"{found.threshold.metric.replace('_', ' ')} {found.error:.1e}"
    verdict = ("passed" if found.passed else "failed") + (f" on {found.device}" if found.device else "")
    return f"{verdict}: {error} (limit {found.threshold.value:.1e}), {found.checks} checks"
