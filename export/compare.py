"""Compare an exported graph with PyTorch fp32: the recorded calls are run again in onnxruntime, on the CPU."""

from __future__ import annotations

import math
from pathlib import Path

import onnxruntime

from latentrt.engines.errors import CheckFailedError
from latentrt.engines.golden import GoldenCase
from latentrt.engines.metrics import difference
from latentrt.engines.threshold import Threshold, output_threshold, unit_scale

FP32 = output_threshold("fp32", None)


def check_graph(component: str, graph: Path, cases: list[GoldenCase], threshold: Threshold = FP32) -> float:
    """The largest absolute error over all cases and outputs, on the scale where an output's deviation is at most 1.

    Raises:
        CheckFailedError: an error is beyond the threshold, or not a number; it names the case and the output.
    """
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    worst = 0.0
    for case in cases:
        answers = session.run(list(case.outputs), case.inputs)
        for (name, expected), answer in zip(case.outputs.items(), answers, strict=True):
            found = difference(answer, expected)
            error = found.max_abs / unit_scale(expected)
            if not threshold.passes(found, expected):  # NaN never does
                figure = error if threshold.scaled else getattr(found, threshold.metric)
                raise CheckFailedError(
                    f"{component}: {name} of case {case.name} is {figure:.2g} from PyTorch in onnxruntime, more than "
                    f"{threshold.value:.1g}: nothing was written; check the checkpoint for NaN and report the versions"
                )
            worst = max(worst, error)
    return worst


def round_up(error: float, digits: int = 1) -> float:
    """The next number of as many significant digits: 2.1e-06 -> 3e-06. It is what the bundle states.

    onnxruntime gives the same bits from run to run and for any number of threads, so the figure repeats; its further
    digits would only claim more than a figure from another machine can confirm.
    """
    if error == 0:
        return 0.0
    exponent = math.floor(math.log10(error)) - digits + 1
    count = math.ceil(error / 10.0**exponent - 1e-9)
    return float(f"{count}e{exponent}")
