"""The safety checker: which pictures it flags, as diffusers' `StableDiffusionSafetyChecker` decides it, in numpy.

CLIP embeds a picture; what is close to one of 17 concepts is flagged, and sooner so where it is also close to one of 3
that ask for special care. What it catches and what it misses: https://arxiv.org/abs/2210.04610.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from latentrt.engines.bundle import Bundle
from latentrt.engines.engine import Engine
from latentrt.engines.errors import BundleError, EngineError
from latentrt.engines.licence import asked_of_users
from latentrt.engines.manifest import SAFETY_CHECKER, Licence, SafetyFacts

from .clip_image import clip_pixels
from .picture import to_image

BLACK = np.float32(-1)  # of a decoded picture, as diffusers replaces a flagged one
SPECIAL_CARE = np.float32(0.01)  # added to every concept's score where a special-care concept is close
DECIMALS = 3  # scores are rounded to these before they are held against 0
_SMALLEST_NORM = 1e-12  # torch.nn.functional.normalize's

Floats = NDArray[np.float32]


class SafetyWarning(UserWarning):
    """Pictures are not checked, because the caller said so."""


@dataclass(frozen=True, eq=False)
class Concepts:
    """What pictures are held against, float32: vectors (n, width), and a threshold (n,) of the cosine for each."""

    concept_embeds: Floats
    concept_embeds_weights: Floats
    special_care_embeds: Floats
    special_care_embeds_weights: Floats


def read_concepts(bundle: Bundle, facts: SafetyFacts) -> Concepts:
    """The concepts of a bundle's safety checker.

    Raises:
        BundleError: the file is damaged, or does not fit the network beside it.
    """
    where = f"{bundle.root}: {facts.concepts}"
    try:
        tensors = load_file(bundle.file(facts.concepts))
    except (SafetensorError, ValueError, TypeError) as error:  # TypeError: a dtype that numpy has not
        raise BundleError(f"{where} is not a safetensors file for numpy: {error}") from error
    names = {field.name for field in fields(Concepts)}
    if tensors.keys() != names:
        raise BundleError(f"{where} holds {', '.join(sorted(tensors)) or 'nothing'}; expected {', '.join(names)}")
    width = bundle.component(SAFETY_CHECKER).outputs[0].shape[-1]
    for kind in ("concept_embeds", "special_care_embeds"):
        vectors, thresholds = tensors[kind], tensors[f"{kind}_weights"]
        if vectors.shape != (len(thresholds), width) or thresholds.ndim != 1 or not len(thresholds):
            raise BundleError(
                f"{where}: {kind} is {vectors.shape} with thresholds {thresholds.shape}; expected (n, {width}) and (n,)"
            )
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise BundleError(f"{where}: {name} is {tensor.dtype}; expected finite numbers of float32")
    return Concepts(**tensors)


def is_flagged(image_embeds: Floats, concepts: Concepts) -> NDArray[np.bool_]:
    """Which pictures show a concept: (rows, width) float32 -> (rows,).

    The decision of diffusers' `StableDiffusionSafetyChecker.forward`, its rounding in float32 included.
    """
    care = _scores(image_embeds, concepts.special_care_embeds, concepts.special_care_embeds_weights)
    cared = np.round(care, DECIMALS).max(axis=1, keepdims=True) > 0  # (rows, 1)
    scores = _scores(image_embeds, concepts.concept_embeds, concepts.concept_embeds_weights)
    raised = scores + np.where(cared, SPECIAL_CARE, np.float32(0))
    flagged: NDArray[np.bool_] = np.round(raised, DECIMALS).max(axis=1) > 0
    return flagged


def _scores(image_embeds: Floats, concepts: Floats, thresholds: Floats) -> Floats:
    """How far each cosine is above its threshold: (rows, n) float32.

    Summed in float64 and rounded once, which leaves torch's float32 sum as the only error between the two.
    """
    cosines = _unit(image_embeds) @ _unit(concepts).T
    difference: Floats = cosines.astype(np.float32) - thresholds
    return difference


def _unit(vectors: Floats) -> NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    unit: NDArray[np.float64] = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), _SMALLEST_NORM)
    return unit


class SafetyChecker:
    """The network, opened, and what surrounds it."""

    def __init__(self, engine: Engine, bundle: Bundle, facts: SafetyFacts) -> None:
        self.engine = engine
        self._facts = facts
        self._concepts = read_concepts(bundle, facts)

    def replace_flagged(self, decoded: Floats) -> tuple[Floats, list[bool]]:
        """Decoded pictures (n, 3, height, width), those that show a concept black; and which those are.

        Raises:
            NanPictureError: a picture holds NaN or infinity.
            EngineError: the network failed, or gave NaN.
        """
        flagged = np.array([self._flags(picture) for picture in decoded])
        return np.where(flagged[:, None, None, None], BLACK, decoded), flagged.tolist()

    def _flags(self, picture: Floats) -> bool:
        pixels = clip_pixels(to_image(picture, {}), self._facts)
        feeds = {self.engine.inputs[0].name: pixels[None]}
        image_embeds = self.engine.run(feeds)[self.engine.outputs[0].name]
        if not np.isfinite(image_embeds).all():
            raise EngineError(
                "the safety checker gave NaN or infinity, so it cannot tell what a picture shows: no picture; "
                "try another engine, and 'latentrt inspect' to check the bundle"
            )
        return bool(is_flagged(image_embeds, self._concepts)[0])


def switched_off(licence: Licence) -> str:
    """What is said when the caller switches the safety checker off."""
    return (
        f"the safety checker is off, pictures are not checked: {asked_of_users(licence)}; "
        "do not show unchecked pictures to the public"
    )


def verdict(flagged: list[bool] | None, index: int, available: bool) -> str:
    """What a picture's text says of the check: picture `index` of `flagged`, or why there was none."""
    if flagged is None:
        return "off" if available else "none in the bundle"
    return "flagged: replaced by a black picture" if flagged[index] else "passed"
