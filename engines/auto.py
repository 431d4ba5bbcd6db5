"""`--engine auto`: the best backend that can draw with a bundle here, and why it is that one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .backend import backend_names
from .bundle import Bundle
from .choice import Choice, Wanted, choices
from .errors import EngineError, LatentrtError
from .manifest import SAFETY_CHECKER, TEXT_ENCODER, UNET, Precision, decoder_component

AUTO = "auto"
ORDER = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "openvino", "onnxruntime")  # the fastest first
# where nobody says otherwise: a backend whose own choice is less would draw another picture than the others
_PRECISION: dict[str, Precision] = {"openvino": "fp32"}


@dataclass(frozen=True)
class _Candidate:
    """A backend that can draw here, and what it would draw with."""

    wanted: Wanted
    found: Sequence[Choice]

    @property
    def unproven(self) -> str | None:
        """Why it gives way to one whose engines were all built and verified; None where its own were."""
        for choice in self.found:
            if choice.record is None:
                return f"nothing has verified its {choice.component}{self._build()}"
            if choice.refusal is not None:
                return choice.refusal
        return None

    def __str__(self) -> str:
        """What it computes in, and whether its engines were built or open the graphs."""
        built = sum(choice.record is not None for choice in self.found)
        how = f"{built} of {len(self.found)} built" if built else "from graphs"
        how = "built and verified" if self.unproven is None else f"{how}, and {self.unproven}"
        precisions = " and ".join(sorted({choice.key.precision for choice in self.found}))
        return f"engine {self.wanted.engine}, {precisions}, {how}"

    def _build(self) -> str:
        bundle = self.found[0].bundle
        if any(component.packed is not None for component in bundle.manifest.components.values()):
            return ""  # there are no graphs to build from
        precision = f" --precision {self.wanted.precision}" if self.wanted.precision else ""
        return f": build it with 'latentrt build {bundle.root} --engine {self.wanted.engine}{precision}'"


def choose(bundle: Bundle, wanted: Wanted) -> tuple[Wanted, str]:
    """The fastest backend whose engines for all that a picture takes were built and verified, and can run here.

    Where there is none it is the fastest that can run here: it opens graphs as they are, which nothing has verified.
    Returns what to open instead of "auto", and a line that says why; it names the build of what would have come first.

    Raises:
        EngineError: there is none; it says why not, backend by backend.
    """
    reasons: list[str] = []
    unproven: list[_Candidate] = []
    for name in (name for name in ORDER if name in backend_names()):
        asked = replace(wanted, engine=name, precision=wanted.precision or _PRECISION.get(name))
        try:
            candidate = _Candidate(asked, [choices(bundle, component, asked)[0] for component in _drawn_with(bundle)])
        except LatentrtError as error:
            reasons.append(f"not {name}: {error}")
            continue
        if candidate.unproven is None:
            passed_over = [f"not {other.wanted.engine}: {other.unproven}" for other in unproven]
            return asked, "; ".join([str(candidate), *reasons, *passed_over])
        unproven.append(candidate)
    if unproven:
        return unproven[0].wanted, "; ".join([str(unproven[0]), *reasons])
    raise EngineError(f"no engine can draw with {bundle.root} here: {'; '.join(reasons)}")


def _drawn_with(bundle: Bundle) -> Sequence[str]:
    manifest = bundle.manifest
    checker = [SAFETY_CHECKER] if manifest.safety_checker is not None else []
    return [TEXT_ENCODER, UNET, decoder_component(manifest.default_decoder), *checker]
