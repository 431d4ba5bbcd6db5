"""Prove a bundle here: every component in each engine that would draw with it, and whole pictures by the runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from latentrt.engines import store
from latentrt.engines.auto import AUTO, choose
from latentrt.engines.backend import DEFAULT, device_name
from latentrt.engines.bisect import Departure, bisect
from latentrt.engines.bundle import Bundle
from latentrt.engines.choice import Choice, Wanted, fitting
from latentrt.engines.derived import built_cases
from latentrt.engines.golden import GoldenCase, golden_cases
from latentrt.engines.manifest import TEXT_ENCODER, UNET, Precision, decoder_component
from latentrt.engines.size import Size
from latentrt.engines.threshold import component_threshold
from latentrt.engines.verification import Check, check_calls, summary

from .pipeline import Pipeline
from .replay import replay

Report = Callable[[str], None]


def silent(line: str) -> None:
    """Report nothing."""


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `verify` found: every comparison, and for each failing component where inside its graph it begins.

    `departures`, by the engine's key, is None where nobody asked; an engine is None in it where marking tensors made
    the error go away.
    """

    bundle: str  # SHA-256 of bundle.json
    engine: str
    keys: dict[str, str]  # by component, the key of the engine; of several, with spaces between
    passed: bool
    checks: list[Check]
    skipped: list[str]  # what the engines were not built for, a line each
    departures: dict[str, Departure | None] | None = None


@dataclass(eq=False)
class _Trial:
    """One engine of one component, and what was found of it."""

    choice: Choice
    cases: list[GoldenCase]  # those it takes
    checks: list[Check]
    blamed: list[Check] = field(default_factory=list)  # of a trajectory, where no network in it is at fault

    @property
    def key(self) -> str:
        return self.choice.key.id

    @property
    def passed(self) -> bool:
        """Whether the engine's own answers are right."""
        return _passed(self.checks)

    @property
    def unchecked(self) -> bool:
        """Whether nothing was known yet of it on this device."""
        record, here = self.choice.record, device_name(self.choice.backend)
        return record is not None and (record.verification is None or record.verification.device != here)


def verify_bundle(
    path: str | Path,
    *,
    engine: str = DEFAULT,
    precision: Precision | None = None,
    engine_dir: Path | None = None,
    device: int = 0,
    sizes: Sequence[Size] = (),
    find_departure: bool = False,
    report: Report = silent,
) -> VerifyReport:
    """Replay PyTorch's recorded answers, and check unrecorded `sizes` (width, height) against onnxruntime.

    Every engine that fits here is checked, with the calls that it was built for, whatever its last check found;
    `engine`, `precision`, `engine_dir` and `device` say which, as in `Pipeline.open`. The outcome is kept with each:
    one that failed is not opened again unless it is asked for. A trajectory is drawn by those that would draw a
    picture; one that fails while each network passes counts as the failure of its UNet, which a picture passes through
    most often; one whose size no engine was built for is skipped.

    Raises:
        BundleError: no bundle there, or a damaged one.
        EngineError: an engine cannot be opened or run here, or none was built.
        InputError: no engine of this name.
        OutputError: the outcome cannot be written into the bundle.
    """
    bundle = Bundle.open(path, engine_dir)
    wanted = Wanted(engine=engine, precision=precision, device=device, allow_unverified=True)
    if engine == AUTO:
        wanted, _ = choose(bundle, wanted)
    trials: list[_Trial] = []
    skipped: list[str] = []
    for component in bundle.manifest.components:
        report(f"checking {component}")
        trials += _try_all(bundle, component, wanted, sizes, skipped)
    departures = {trial.key: _departure(trial, report) for trial in trials if find_departure and not trial.passed}
    drawn = _draw_and_keep(bundle, wanted, trials, report, skipped)
    every = [check for trial in trials for check in trial.checks] + drawn
    return VerifyReport(
        bundle=bundle.hash,
        engine=wanted.engine,
        keys=_keys(trials),
        passed=_passed(every),
        checks=every,
        skipped=skipped,
        departures=departures if find_departure else None,
    )


def _try_all(
    bundle: Bundle, component: str, wanted: Wanted, sizes: Sequence[Size], skipped: list[str]
) -> Iterator[_Trial]:
    """Try every engine of a component that fits here, whatever its last check found."""
    if bundle.component(component).golden is None:
        skipped.append(f"{component} was packed without PyTorch's answers: its engines had passed their check")
        return
    cases = golden_cases(bundle, component)
    for choice in fitting(bundle, component, wanted):
        trial = _try(choice, cases, sizes)
        if trial.checks:
            yield trial
        else:
            skipped.append(
                f"{_name(choice)} was built for none of the recorded calls, and what answers others, the graph, was "
                "left out of this packed bundle: verify it in the one that it was packed from"
            )


def _passed(checks: Sequence[Check]) -> bool:
    return all(check.passed for check in checks)


def _name(choice: Choice) -> str:
    return f"the {choice.key.backend} engine {choice.key.id} of {choice.component}"


def _keys(trials: Sequence[_Trial]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for trial in trials:
        found.setdefault(trial.choice.component, []).append(trial.choice.key.id)
    return {component: " ".join(ids) for component, ids in found.items()}


def _try(choice: Choice, recorded: list[GoldenCase], sizes: Sequence[Size]) -> _Trial:
    """Run what the engine takes of the recorded calls, and of calls at `sizes` and at those it was built for."""
    bundle, component = choice.bundle, choice.component
    threshold = component_threshold(bundle.component(component), choice.key.precision)
    derived = []
    if bundle.component(component).graph is not None:
        derived = built_cases(bundle, component, choice.backend.options, recorded, sizes)
    with choice.open() as engine:
        recorded, derived = ([case for case in cases if engine.takes(case.inputs)] for cases in (recorded, derived))
        checks = check_calls(engine, recorded, threshold) + check_calls(engine, derived, threshold, "derived")
    return _Trial(choice, recorded + derived, checks)


def _draw_and_keep(
    bundle: Bundle, wanted: Wanted, trials: Sequence[_Trial], report: Report, skipped: list[str]
) -> list[Check]:
    """As `_draw`; the outcome is kept with each engine.

    For what was never checked here, and what failed, that is before pictures are drawn: with the one, and not with the
    other. An engine that had failed earlier, maybe in a picture, is cleared by pictures alone.
    """
    told = [trial for trial in trials if trial.unchecked or not trial.passed]
    for trial in told:
        _keep(trial)
    drawn = _draw(bundle, wanted, trials, report, skipped)
    for trial in trials:
        if trial.blamed or trial not in told:
            _keep(trial)
    return drawn


def _draw(bundle: Bundle, wanted: Wanted, trials: Sequence[_Trial], report: Report, skipped: list[str]) -> list[Check]:
    """The trajectories; a model that does not draw from text alone records none."""
    if not bundle.manifest.trajectory:
        return []
    drawing = {TEXT_ENCODER, UNET, decoder_component(bundle.manifest.default_decoder)}
    at_fault = any(trial.choice.component in drawing and not trial.passed for trial in trials)
    drawn = []
    with Pipeline(bundle, wanted) as pipeline:
        for found in replay(pipeline, bundle.manifest.trajectory, report):
            if found.skipped is not None:
                skipped.append(found.skipped)
            drawn += found.checks
            for trial in trials:
                if trial.choice.key == found.unet and not at_fault:
                    trial.blamed += found.checks
    return drawn


def _keep(trial: _Trial) -> None:
    choice = trial.choice
    threshold = component_threshold(choice.bundle.component(choice.component), choice.key.precision)
    verification = summary(trial.checks + trial.blamed, threshold)
    store.keep(choice.backend, choice.bundle, choice.component, verification)


def _departure(trial: _Trial, report: Report) -> Departure | None:
    """Search with the smallest of the failing cases."""
    choice = trial.choice
    failing = {check.case for check in trial.checks if not check.passed}
    failed = (case for case in trial.cases if case.name in failing)
    case = min(failed, key=lambda case: sum(array.size for array in case.inputs.values()))
    built = choice.record is not None
    return bisect(choice.backend, choice.bundle, choice.component, case, built=built, report=report)
