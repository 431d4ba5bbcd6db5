"""`--engine auto`: the best backend that can draw with a bundle here, and why it is that one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .backend import backend_names
from .bundle import Bundle
from .choice import Wanted, choices
from .errors import EngineError, LatentrtError
from .manifest import SAFETY_CHECKER, TEXT_ENCODER, UNET, Precision, decoder_component

AUTO = "auto"
ORDER = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "openvino", "onnxruntime")  # the fastest first
# where nobody says otherwise: a backend whose own choice is less would draw another picture than the others
_PRECISION: dict[str, Precision] = {"openvino": "fp32"}


def choose(bundle: Bundle, wanted: Wanted) -> tuple[Wanted, str]:
    """The best backend that is installed, can run here, and has (or opens) an engine for all that a picture takes.

    Returns what to open instead of "auto", and a line that says why.

    Raises:
        EngineError: there is none; it says why not, backend by backend.
    """
    reasons = []
    for name in (name for name in ORDER if name in backend_names()):
        candidate = replace(wanted, engine=name, precision=wanted.precision or _PRECISION.get(name))
        try:
            how = _how(bundle, candidate)
        except LatentrtError as error:
            reasons.append(f"not {name}: {error}")
        else:
            return candidate, "; ".join([f"engine {name}, {how}", *reasons])
    raise EngineError(f"no engine can draw with {bundle.root} here: {'; '.join(reasons)}")


def _how(bundle: Bundle, wanted: Wanted) -> str:
    """Whether a picture's engines were built, or open the graphs; in which precision."""
    found = [choices(bundle, component, wanted)[0] for component in _drawn_with(bundle)]
    built = sum(choice.record is not None for choice in found)
    how = "built and verified" if built == len(found) else f"{built} of {len(found)} built" if built else "from graphs"
    return f"{' and '.join(sorted({choice.key.precision for choice in found}))}, {how}"


def _drawn_with(bundle: Bundle) -> Sequence[str]:
    manifest = bundle.manifest
    checker = [SAFETY_CHECKER] if manifest.safety_checker is not None else []
    return [TEXT_ENCODER, UNET, decoder_component(manifest.default_decoder), *checker]
