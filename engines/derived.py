"""Calls of shapes that were not recorded: onnxruntime fp32 answers them, on the bundle's own graph as it is written."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backend import run_as_written
from .bundle import Bundle
from .calls import call_shapes
from .golden import GoldenCase
from .manifest import MAX_TOKENS
from .options import BuildOptions
from .profile import ROWS
from .size import Size
from .tensor import TensorSpec, check_feeds, free_names, resolve_shape


def derived_cases(
    bundle: Bundle,
    component: str,
    sizes: Sequence[Size],
    recorded: Sequence[GoldenCase],
    tokens: Sequence[int] = (MAX_TOKENS,),
) -> list[GoldenCase]:
    """A call for each size and text length of which none is recorded; none for a component whose tensors have no size.

    Inputs of a shape that is recorded are the recorded ones; the others are noise with their mean, deviation and range.

    Raises:
        EngineError: ONNX Runtime is not installed, or cannot run the graph.
    """
    stated = bundle.component(component)
    free = free_names(stated.inputs)
    if not {"height", "width"} <= free:
        return []
    known = [check_feeds(component, stated.inputs, case.inputs) for case in recorded]
    template, rows = min(zip(recorded, (bound[ROWS] for bound in known), strict=True), key=lambda pair: pair[1])
    calls = {}
    for size, length in product(dict.fromkeys(sizes), dict.fromkeys(tokens if "tokens" in free else [MAX_TOKENS])):
        bound = {**call_shapes(bundle, component, size, length), ROWS: rows}
        if not any(all(bound[axis] == other[axis] for axis in free - {ROWS}) for other in known):
            name = f"rows{rows}-{size[0]}x{size[1]}" + (f"-{length}tokens" if length != MAX_TOKENS else "")
            calls[name] = {spec.name: _feed(spec, bound, template, name) for spec in stated.inputs}
    if not calls:
        return []
    outputs = [spec.name for spec in stated.outputs]
    answers = run_as_written(bundle.graph(component), list(calls.values()), outputs)
    return [GoldenCase(name, feeds, answer) for (name, feeds), answer in zip(calls.items(), answers, strict=True)]


def built_cases(
    bundle: Bundle, component: str, options: BuildOptions, recorded: Sequence[GoldenCase], more: Sequence[Size] = ()
) -> list[GoldenCase]:
    """`derived_cases` for all that an engine was built for, and for `more` sizes.

    Raises:
        EngineError: as `derived_cases`.
    """
    own = bundle.manifest.model.default_size
    sizes = [*more, *(options.sizes or ((own, own),))]
    return derived_cases(bundle, component, sizes, recorded, options.tokens)


def _feed(spec: TensorSpec, bound: dict[str, int], template: GoldenCase, seed: str) -> NDArray[Any]:
    like, shape = template.inputs[spec.name], resolve_shape(spec.shape, bound)
    if like.shape == shape:
        return like
    rng = np.random.default_rng(zlib.crc32(f"{seed} {spec.name}".encode()))
    noise = rng.standard_normal(shape) * like.std() + like.mean()
    return np.asarray(noise.clip(like.min(), like.max()), like.dtype)
