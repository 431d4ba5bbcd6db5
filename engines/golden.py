"""The answers that PyTorch fp32 gave when the bundle was exported: read, and trusted only where they fit."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import msgspec
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from .bundle import Bundle
from .errors import BundleError, InputError
from .manifest import Component
from .tensor import check_feeds, resolve_shape

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class GoldenCase:
    """One recorded call: what went in, and what PyTorch answered."""

    name: str
    inputs: Arrays
    outputs: Arrays


def golden_cases(bundle: Bundle, component: str) -> list[GoldenCase]:
    """The recorded calls of a component.

    Raises:
        BundleError: the record is not readable, empty, or does not fit the component; or it was not packed.
    """
    declared = bundle.component(component)
    path = declared.golden
    if path is None:
        raise BundleError(f"{bundle.root} was packed without PyTorch's answers for {component}, which it had passed")
    try:
        tensors = load_file(bundle.file(path))
    except (SafetensorError, ValueError, TypeError) as error:  # TypeError: a dtype that numpy has not
        raise BundleError(f"{bundle.root}: {path} is not a safetensors file for numpy: {error}") from error
    cases: dict[str, dict[str, Arrays]] = defaultdict(lambda: {"inputs": {}, "outputs": {}})
    for name, tensor in tensors.items():
        parts = name.split("/")
        if len(parts) != 3 or parts[1] not in {"inputs", "outputs"}:
            raise BundleError(f"{bundle.root}: {path} holds {name!r}; expected CASE/inputs/NAME or CASE/outputs/NAME")
        case, side, tensor_name = parts
        cases[case][side][tensor_name] = tensor
    if not cases:
        raise BundleError(f"{bundle.root}: {path} records no call; export the bundle again")
    for case, sides in cases.items():
        try:
            _check_case(f"{component} in case {case}", declared, sides["inputs"], sides["outputs"])
        except InputError as error:
            raise BundleError(f"{bundle.root}: {path} does not fit its component: {error}") from error
    return [GoldenCase(name, sides["inputs"], sides["outputs"]) for name, sides in sorted(cases.items())]


def _check_case(name: str, declared: Component, inputs: Arrays, outputs: Arrays) -> None:
    bound = check_feeds(name, declared.inputs, inputs)
    fixed = [msgspec.structs.replace(spec, shape=resolve_shape(spec.shape, bound)) for spec in declared.outputs]
    check_feeds(name, fixed, outputs)
