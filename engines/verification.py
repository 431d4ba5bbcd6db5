"""Replay recorded calls in an engine, and judge each answer: the figures, the limit, and where the limit comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from numpy.typing import NDArray

from .engine import Engine
from .golden import GoldenCase
from .metrics import Difference, difference
from .threshold import Threshold

Against = Literal["PyTorch", "derived"]  # PyTorch fp32 at export; onnxruntime fp32 here, on the bundle's own graph
_KEPT = 10  # failures that a record keeps


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor beside its reference. Without a threshold only NaN, infinity and one value throughout fail."""

    part: str  # a component, or a trajectory
    case: str  # the recorded call, or the step
    tensor: str
    against: Against
    difference: Difference
    threshold: Threshold | None
    limit: float | None  # the threshold in the tensor's own unit
    passed: bool

    def __str__(self) -> str:
        where = f"{self.tensor} of {self.part} in {self.case}"
        if self.difference.finding is not None:
            return f"{where} is {_WORDS[self.difference.finding]}"
        if self.threshold is None or self.limit is None:
            return f"{where} has no limit"
        metric = self.threshold.metric
        error = getattr(self.difference, metric)
        relation = "over" if not self.passed else "within"
        return f"{where}: {metric.replace('_', ' ')} {error:.2g}, {relation} {self.limit:.2g}"


_WORDS = {"NaN": "NaN", "Inf": "infinite", "constant": "one value throughout", "wrong shape": "of another shape"}


class Verification(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record of a check that is kept with an engine: it passed where nothing failed."""

    threshold: Threshold
    error: float | None  # the largest, in the threshold's metric (and on unit scale if it is scaled); None: no number
    checks: int
    failures: tuple[str, ...]  # the first ten, a line each
    device: str = ""  # the GPU that it ran on, by its name; a processor is in the engine's key

    @property
    def passed(self) -> bool:
        """Whether something was checked and measured, and nothing failed."""
        return self.checks > 0 and self.error is not None and not self.failures


def check_calls(
    engine: Engine, cases: Sequence[GoldenCase], threshold: Threshold, against: Against = "PyTorch"
) -> list[Check]:
    """Run each case in the engine and judge each output.

    Raises:
        EngineError: the engine cannot run a case.
    """
    checks = []
    for case in cases:
        answers = engine.run(case.inputs)
        for name, expected in case.outputs.items():
            checks.append(judge(engine.name, case.name, name, against, answers[name], expected, threshold))
    return checks


def judge(
    part: str,
    case: str,
    tensor: str,
    against: Against,
    answer: NDArray[Any],
    expected: NDArray[Any],
    threshold: Threshold | None,
    *,
    data_range: float | None = None,
) -> Check:
    """Compare one tensor; `data_range` as in `difference`."""
    found = difference(answer, expected, data_range=data_range)
    return Check(
        part=part,
        case=case,
        tensor=tensor,
        against=against,
        difference=found,
        threshold=threshold,
        limit=None if threshold is None else threshold.limit(expected),
        passed=found.finding is None if threshold is None else threshold.passes(found, expected),
    )


def summary(checks: Sequence[Check], threshold: Threshold) -> Verification:
    """The record of these checks; `threshold` is the component's, and the error is of the checks made against it."""
    errors = [_error(check, threshold) for check in checks if check.threshold == threshold]
    worst = math.nan if any(map(math.isnan, errors)) else max(errors, default=math.nan)
    failures = tuple(str(check) for check in checks if not check.passed)[:_KEPT]
    return Verification(
        threshold=threshold,
        error=worst if math.isfinite(worst) else None,
        checks=len(checks),
        failures=failures,
    )


def _error(check: Check, threshold: Threshold) -> float:
    found = float(getattr(check.difference, threshold.metric))
    return found if check.limit is None else found * (threshold.value / check.limit)
