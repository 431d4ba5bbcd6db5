"""Calls at sizes that were not recorded: onnxruntime fp32 answers them, on the bundle's own graph as it is written."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backend import run_as_written
from .bundle import Bundle
from .golden import GoldenCase
from .size import Size, pixels_per_unit
from .tensor import TensorSpec, check_feeds, free_names, resolve_shape


def derived_cases(
    bundle: Bundle, component: str, sizes: Sequence[Size], recorded: Sequence[GoldenCase]
) -> list[GoldenCase]:
    """A call for each size of which no call is recorded; none for a component whose tensors have no size.

    Inputs that have a size are noise with the mean, deviation and range of a recorded input; the others are recorded.

    Raises:
        EngineError: ONNX Runtime is not installed, or cannot run the graph.
    """
    stated = bundle.component(component)
    if not {"height", "width"} <= free_names(stated.inputs):
        return []
    known = [check_feeds(component, stated.inputs, case.inputs) for case in recorded]
    template, rows = min(zip(recorded, (bound["rows"] for bound in known), strict=True), key=lambda pair: pair[1])
    calls = {}
    for width, height in dict.fromkeys(sizes):
        bound = {"rows": rows, "width": width, "height": height}
        for axis in ("width", "height"):
            bound[axis] //= pixels_per_unit(bundle, component, axis)
        if not any(_same_size(bound, other) for other in known):
            name = f"rows{rows}-{width}x{height}"
            calls[name] = {spec.name: _feed(spec, bound, template, name) for spec in stated.inputs}
    if not calls:
        return []
    outputs = [spec.name for spec in stated.outputs]
    answers = run_as_written(bundle.graph(component), list(calls.values()), outputs)
    return [GoldenCase(name, feeds, answer) for (name, feeds), answer in zip(calls.items(), answers, strict=True)]


def _same_size(one: dict[str, int], other: dict[str, int]) -> bool:
    return (one["width"], one["height"]) == (other["width"], other["height"])


def _feed(spec: TensorSpec, bound: dict[str, int], template: GoldenCase, seed: str) -> NDArray[Any]:
    like = template.inputs[spec.name]
    if not {"height", "width"} & free_names([spec]):
        return like
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    noise = rng.standard_normal(resolve_shape(spec.shape, bound)) * like.std() + like.mean()
    return np.asarray(noise.clip(like.min(), like.max()), like.dtype)
