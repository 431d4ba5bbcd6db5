"""PyTorch's own error in a reduced precision: the floor that an engine of that precision is measured by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from latentrt.engines.golden import GoldenCase
from latentrt.engines.metrics import difference

from .compare import round_up
from .wrappers import Network


def own_error(reduced: Network, cases: Sequence[GoldenCase]) -> float:
    """Relative L2 error of a network in reduced precision against the recorded fp32 answers, the largest over outputs.

    Of the recorded calls the smallest is run. Rounded up to two digits.
    """
    case = min(cases, key=lambda case: sum(array.size for array in case.inputs.values()))
    inputs = [torch.from_numpy(case.inputs[spec.name]) for spec in reduced.inputs]
    with torch.no_grad():
        answer = reduced.module(*inputs)
    answers = answer if isinstance(answer, tuple) else (answer,)
    pairs = zip(reduced.outputs, answers, strict=True)
    worst = max(difference(a.numpy(), case.outputs[spec.name]).relative_l2 for spec, a in pairs)
    return round_up(worst, 2) if math.isfinite(worst) else worst
