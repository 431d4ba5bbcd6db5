"""The safety checker as a component of a bundle: its network, its recorded inputs, and the concepts beside it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import save
from torch import Tensor, nn

from latentrt.engines.manifest import SAFETY_CHECKER
from latentrt.engines.tensor import TensorSpec

from .clip_preprocessor import CONCEPTS
from .golden import Inputs, noise
from .safety_checker import SafetySource
from .wrappers import IMAGE_CHANNELS, Loader, Network, loader

CONCEPT_TENSORS = (
    "concept_embeds",
    "concept_embeds_weights",
    "special_care_embeds",
    "special_care_embeds_weights",
)


class ImageEmbedder(nn.Module):
    """Normalised pictures to CLIP's embeddings, which are what the concepts are compared with."""

    def __init__(self, checker: StableDiffusionSafetyChecker) -> None:
        super().__init__()
        checker.vision_model.set_attn_implementation("sdpa")  # exports as one Attention node a layer
        self.vision_model = checker.vision_model
        self.visual_projection = checker.visual_projection

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(rows, 3, 224, 224) -> (rows, width)."""
        image_embeds: Tensor = self.visual_projection(self.vision_model(pixel_values).pooler_output)
        return image_embeds


def safety_loaders(source: SafetySource | None, folder: Path) -> dict[str, Loader]:
    """The safety checker's component, where there is one; loading it leaves its concepts in the bundle's folder."""
    if source is None:
        return {}

    def load() -> StableDiffusionSafetyChecker:
        checker = source.network.load()
        write_concepts(checker, folder)
        return checker

    stored = replace(source.network, load=load)
    return {SAFETY_CHECKER: loader(stored, partial(safety_network, source.facts.image_size))}


def safety_network(side: int, checker: StableDiffusionSafetyChecker) -> Network:
    """The network as a component; pictures are `side` pixels on a side."""
    width = int(checker.visual_projection.out_features)
    return Network(
        SAFETY_CHECKER,
        ImageEmbedder(checker).eval(),
        (TensorSpec(name="pixel_values", dtype="float32", shape=("rows", IMAGE_CHANNELS, side, side)),),
        (TensorSpec(name="image_embeds", dtype="float32", shape=("rows", width)),),
    )


def safety_inputs(network: Network) -> dict[str, Inputs]:
    """The recorded inputs, by case: noise of unit deviation, as normalised pictures have."""
    [spec] = network.inputs
    side = int(spec.shape[-1])
    return {
        f"rows{rows}-{side}x{side}": {spec.name: noise(rows, (side, side), f"{SAFETY_CHECKER} {rows}", IMAGE_CHANNELS)}
        for rows in (1, 2)
    }


def write_concepts(checker: StableDiffusionSafetyChecker, folder: Path) -> None:
    """Write the concept vectors and thresholds into a bundle's folder, float32, under diffusers' names."""
    (folder / CONCEPTS).parent.mkdir(exist_ok=True)
    tensors = {name: getattr(checker, name).detach().to(torch.float32).contiguous() for name in CONCEPT_TENSORS}
    (folder / CONCEPTS).write_bytes(save(tensors))
