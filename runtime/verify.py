"""Prove a bundle here: every component in the engine that would draw with it, and whole pictures by the runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from latentrt.engines import backend as backends
from latentrt.engines import store
from latentrt.engines.backend import Backend
from latentrt.engines.bisect import Departure, bisect
from latentrt.engines.bundle import Bundle
from latentrt.engines.derived import derived_cases
from latentrt.engines.golden import GoldenCase, golden_cases
from latentrt.engines.manifest import TEXT_ENCODER, UNET, decoder_component
from latentrt.engines.size import Size
from latentrt.engines.threshold import component_threshold
from latentrt.engines.verification import Check, check_calls, summary

from .pipeline import MAX_ROWS, Pipeline
from .replay import replay

Report = Callable[[str], None]


def silent(line: str) -> None:
    """Report nothing."""


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `verify` found: every comparison, and for each failing component where inside its graph it begins.

    `departures` is None where nobody asked; a component is None in it where marking tensors made the error go away.
    """

    bundle: str  # SHA-256 of bundle.json
    engine: str
    keys: dict[str, str]  # by component, the engine's key
    passed: bool
    checks: list[Check]
    departures: dict[str, Departure | None] | None = None


def verify_bundle(
    path: str | Path,
    *,
    engine: str = backends.DEFAULT,
    sizes: Sequence[Size] = (),
    find_departure: bool = False,
    report: Report = silent,
) -> VerifyReport:
    """Replay PyTorch's recorded answers, and check unrecorded `sizes` (width, height) against onnxruntime.

    The outcome is kept with each engine: one that failed is not opened again unless it is asked for. A trajectory that
    fails while each network in it passes counts as the UNet's failure, which a picture passes through most often.

    Raises:
        BundleError: no bundle there, or a damaged one.
        EngineError: an engine cannot be opened or run here.
        InputError: no engine of this name.
        OutputError: the outcome cannot be written into the bundle.
    """
    bundle = Bundle.open(path)
    backend = backends.get_backend(engine)
    checks: dict[str, list[Check]] = {}
    departures: dict[str, Departure | None] = {}
    for component in bundle.manifest.components:
        report(f"checking {component}")
        cases = golden_cases(bundle, component)
        derived = derived_cases(bundle, component, sizes, cases)
        checks[component] = _check(backend, bundle, component, cases, derived)
        if find_departure and not _passed(checks[component]):
            departures[component] = _departure(backend, bundle, component, checks[component], cases + derived, report)
    drawn = _draw(bundle, engine, backend.key(bundle, UNET).precision, report)
    _keep(backend, bundle, checks, drawn)
    every = [check for found in checks.values() for check in found] + drawn
    return VerifyReport(
        bundle=bundle.hash,
        engine=engine,
        keys={component: backend.key(bundle, component).id for component in checks},
        passed=_passed(every),
        checks=every,
        departures=departures if find_departure else None,
    )


def _passed(checks: Sequence[Check]) -> bool:
    return all(check.passed for check in checks)


def _draw(bundle: Bundle, engine: str, precision: str, report: Report) -> list[Check]:
    """The trajectories; a model that does not draw from text alone records none."""
    if not bundle.manifest.trajectory:
        return []
    with Pipeline(bundle, engine, MAX_ROWS, allow_unverified=True) as pipeline:
        return replay(pipeline, bundle.manifest.trajectory, precision, report)


def _check(
    backend: Backend, bundle: Bundle, component: str, cases: list[GoldenCase], derived: list[GoldenCase]
) -> list[Check]:
    threshold = component_threshold(bundle.component(component), backend.key(bundle, component).precision)
    folder = store.find(backend, bundle, component, allow_unverified=True)
    with backend.open(bundle, component, folder) as engine:
        return check_calls(engine, cases, threshold) + check_calls(engine, derived, threshold, "derived")


def _keep(backend: Backend, bundle: Bundle, checks: dict[str, list[Check]], drawn: list[Check]) -> None:
    drawing = (TEXT_ENCODER, UNET, decoder_component(bundle.manifest.default_decoder))
    blamed = drawn if all(_passed(checks[component]) for component in drawing) else []
    for component, found in checks.items():
        threshold = component_threshold(bundle.component(component), backend.key(bundle, component).precision)
        store.keep(backend, bundle, component, summary(found + (blamed if component == UNET else []), threshold))


def _departure(
    backend: Backend, bundle: Bundle, component: str, checks: list[Check], cases: list[GoldenCase], report: Report
) -> Departure | None:
    """Search with the smallest of the failing cases."""
    failing = {check.case for check in checks if not check.passed}
    case = min((c for c in cases if c.name in failing), key=lambda c: sum(array.size for array in c.inputs.values()))
    built = store.find(backend, bundle, component, allow_unverified=True) is not None
    return bisect(backend, bundle, component, case, built=built, report=report)
