"""What an error may be at most, and where that number comes from; by the precision of bundle and engine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from .manifest import Component, Precision
from .metrics import Difference

MAX_ABS_ERROR = 1e-4  # of unit-scale outputs, fp32 against fp32: the threshold that export applies too
LATENTS_ERROR = 1e-4  # relative L2 of the latents on the way, fp32: what the samplers' parity with diffusers is held to
PICTURE_ERROR = 2 / 255  # of values in [-1, 1]: one level of the 8-bit picture
TENSOR_ERROR = 1e-5  # relative L2 inside a graph, fp32; of the demo's 548 nodes none exceeds 1e-6 by rounding alone
FLOOR_FACTOR = 2.0  # two correct runs in one precision are each about the floor from fp32, in other directions
ROUNDINGS = 8  # PyTorch's own fp16 and bf16 runs of the demo's networks are 0.6 to 2.7 roundings from its fp32 run

_ROUNDING: dict[Precision, float] = {"fp32": 2**-24, "fp16": 2**-11, "bf16": 2**-8}  # half a unit in the last place


class Threshold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The largest `metric` that passes; a `scaled` one grows with the reference's deviation where that is above 1."""

    metric: Literal["max_abs", "relative_l2"]
    value: Annotated[float, msgspec.Meta(gt=0)]
    origin: str
    scaled: bool = False

    def limit(self, expected: NDArray[Any]) -> float:
        """The threshold in the unit of `expected`."""
        return self.value * unit_scale(expected) if self.scaled else self.value

    def passes(self, found: Difference, expected: NDArray[Any]) -> bool:
        """Whether an answer is near enough: NaN, infinity and one value throughout never are."""
        return found.finding is None and bool(getattr(found, self.metric) <= self.limit(expected))


def unit_scale(expected: NDArray[Any]) -> float:
    """What errors of a tensor are divided by to be on unit scale: its deviation where that is above 1."""
    with np.errstate(invalid="ignore"):  # infinities give NaN, which fails every threshold
        return max(1.0, float(expected.std(dtype=np.float64)))


def lowest(bundle: Precision, engine: str) -> Precision:
    """The precision that bounds what a bundle's graph can answer in an engine; an unknown one is held to fp32."""
    names = [bundle, *(known for known in _ROUNDING if known == engine)]
    return max(names, key=lambda name: _ROUNDING[name])


def component_threshold(component: Component, engine: str) -> Threshold:
    """For the outputs of a component in an engine of this precision."""
    precision = lowest(component.precision, engine)
    return output_threshold(precision, component.floor.get(precision))


def output_threshold(precision: Precision, floor: float | None) -> Threshold:
    """For what a network answers, by the precision it answers in; `floor` is PyTorch's own error in that precision."""
    if precision == "fp32":
        origin = "fp32 against fp32, on unit scale: the threshold that export applies"
        return Threshold(metric="max_abs", value=MAX_ABS_ERROR, origin=origin, scaled=True)
    return _reduced(precision, floor)


def tensor_threshold(component: Component, engine: str) -> Threshold:
    """For the tensors inside a component's graph, each on its own scale."""
    precision = lowest(component.precision, engine)
    if precision == "fp32":
        origin = "fp32 against fp32, inside the graph: ten times what rounding alone gives"
        return Threshold(metric="relative_l2", value=TENSOR_ERROR, origin=origin)
    return _reduced(precision, component.floor.get(precision))


def latents_threshold(precision: Precision, floor: float | None, guided: bool) -> Threshold | None:
    """For the latents of one step; None where no bound is known.

    Guidance multiplies the difference of two roundings at every step: in reduced precision the way may part for good
    (at scale 7.5 PyTorch's own bf16 run of the demo does), so only a recorded floor can bound it.
    """
    if precision == "fp32":
        origin = "fp32 against fp32: what each sampler is held to beside diffusers"
        return Threshold(metric="relative_l2", value=LATENTS_ERROR, origin=origin)
    return None if guided and floor is None else _reduced(precision, floor)


def picture_threshold(precision: Precision, floor: float | None) -> Threshold | None:
    """For the decoded picture, clipped to [-1, 1]; None where no bound is known."""
    if precision == "fp32":
        return Threshold(metric="max_abs", value=PICTURE_ERROR, origin="fp32 against fp32: one level of 255")
    return None if floor is None else _reduced(precision, floor)


def _reduced(precision: Precision, floor: float | None) -> Threshold:
    if floor is not None:
        origin = f"{FLOOR_FACTOR:g} times PyTorch's own {precision} error, recorded at export"
        return Threshold(metric="relative_l2", value=FLOOR_FACTOR * floor, origin=origin)
    origin = f"{ROUNDINGS} roundings of {precision}: the bundle records no floor of PyTorch's"
    return Threshold(metric="relative_l2", value=ROUNDINGS * _ROUNDING[precision], origin=origin)
