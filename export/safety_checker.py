"""A model's safety checker, loaded, and written into the bundle: its network and what surrounds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import save
from torch import Tensor, nn

from latentrt.engines.errors import CheckpointError
from latentrt.engines.manifest import SAFETY_CHECKER
from latentrt.engines.tensor import TensorSpec

from .diffusers_folder import load_part
from .golden import Inputs, noise
from .safety_source import CONCEPTS, PREPROCESSOR, SafetySource
from .wrappers import IMAGE_CHANNELS, Network

CONCEPT_TENSORS = (
    "concept_embeds",
    "concept_embeds_weights",
    "special_care_embeds",
    "special_care_embeds_weights",
)


@dataclass(frozen=True)
class SafetyPart:
    """A safety checker in memory: its network ready to export, its concepts, and what the bundle says of its files."""

    network: Network
    concepts: dict[str, Tensor]
    provenance: dict[str, str]


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


def load_safety_checker(source: SafetySource) -> SafetyPart:
    """Load a safety checker.

    Raises:
        CheckpointError: the folder is damaged, holds another network, or takes pictures of another size.
    """
    part = load_part(source.folder, StableDiffusionSafetyChecker)
    checker, side = part.module, source.facts.image_size
    if checker.vision_model.config.image_size != side:
        raise CheckpointError(
            f"{source.folder} takes pictures of {checker.vision_model.config.image_size} pixels, its "
            f"{PREPROCESSOR} makes them {side}"
        )
    width = int(checker.visual_projection.out_features)
    network = Network(
        SAFETY_CHECKER,
        ImageEmbedder(checker).eval(),
        (TensorSpec(name="pixel_values", dtype="float32", shape=("rows", IMAGE_CHANNELS, side, side)),),
        (TensorSpec(name="image_embeds", dtype="float32", shape=("rows", width)),),
    )
    concepts = {name: getattr(checker, name).detach() for name in CONCEPT_TENSORS}
    hashes = {f"safety_checker.{Path(name).name}.sha256": digest for name, digest in part.files.items()}
    return SafetyPart(network, concepts, {"safety_checker": source.folder.absolute().name} | hashes)


def safety_case_inputs(network: Network) -> dict[str, Inputs]:
    """The recorded inputs: noise of unit deviation, as normalised pictures have."""
    [spec] = network.inputs
    side = int(spec.shape[-1])
    return {
        f"rows{rows}-{side}x{side}": {spec.name: noise(rows, (side, side), f"{SAFETY_CHECKER} {rows}", IMAGE_CHANNELS)}
        for rows in (1, 2)
    }


def write_concepts(concepts: dict[str, Tensor], folder: Path) -> None:
    """Write the concept vectors and thresholds into a bundle's folder, float32, under diffusers' names."""
    (folder / CONCEPTS).parent.mkdir(exist_ok=True)
    tensors = {name: tensor.to(torch.float32).contiguous() for name, tensor in concepts.items()}
    (folder / CONCEPTS).write_bytes(save(tensors))
