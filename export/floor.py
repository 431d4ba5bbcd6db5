"""PyTorch's own error in a reduced precision: the floor that an engine of that precision is measured by."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from latentrt.engines.golden import GoldenCase
from latentrt.engines.metrics import difference

from .wrappers import Network


def own_error(network: Network, cases: Sequence[GoldenCase], dtype: torch.dtype) -> float:
    """Relative L2 error of PyTorch in `dtype` against its recorded fp32 answers, the largest over outputs.

    Of the recorded calls the smallest is run: on CPUs without fp16 arithmetic a call of the true size takes minutes.
    Timesteps stay float32, as diffusers has them.
    """
    case = min(cases, key=lambda case: sum(array.size for array in case.inputs.values()))
    inputs = [torch.from_numpy(case.inputs[spec.name]) for spec in network.inputs]
    reduced = [x.to(dtype) if x.is_floating_point() and x.ndim > 1 else x for x in inputs]
    with torch.no_grad():
        answer = copy.deepcopy(network.module).to(dtype)(*reduced)
    answers = answer if isinstance(answer, tuple) else (answer,)
    pairs = zip(network.outputs, answers, strict=True)
    return max(difference(a.float().numpy(), case.outputs[spec.name]).relative_l2 for spec, a in pairs)
