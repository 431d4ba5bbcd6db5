"""The safety checker on disk: found beside a model or where the user says, its keys checked, not yet read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

from latentrt.engines.errors import CheckpointError
from latentrt.engines.manifest import SAFETY_CHECKER, SafetyFacts

from .clip_preprocessor import PREPROCESSOR, read_preprocessor
from .diffusers_folder import stored_safety_checker
from .stored import StoredNetwork


@dataclass(frozen=True)
class SafetySource:
    """A safety checker on disk, and how pictures come to it."""

    network: StoredNetwork[StableDiffusionSafetyChecker]
    facts: SafetyFacts

    @property
    def provenance(self) -> dict[str, str]:
        """Its files and their hashes, as a bundle states them."""
        return {SAFETY_CHECKER: ", ".join(self.network.files)} | {
            f"{SAFETY_CHECKER}.sha256": ", ".join(self.network.files.values())
        }


def find_safety_checker(source: Path, given: Path | None = None, variant: str | None = None) -> SafetySource | None:
    """The safety checker that is `given`, else the one in a diffusers folder; None where there is none.

    `given` is a folder with `config.json` and weights, or a diffusers folder that has `safety_checker/`. `variant`
    names files of it, as for the model's own.

    Raises:
        CheckpointError: `given` holds none; or it is damaged, of another kind, or takes pictures in another way.
    """
    folders = (source / SAFETY_CHECKER,) if given is None else (given / SAFETY_CHECKER, given)
    folder = next((folder for folder in folders if (folder / "config.json").is_file()), None)
    if folder is None and given is not None:
        raise CheckpointError(
            f"--safety-checker {given} holds no safety checker: expected a folder with config.json and weights, "
            "such as the safety_checker/ of a diffusers folder"
        )
    if folder is None:
        return None
    network, facts = stored_safety_checker(folder, variant), read_preprocessor(folder)
    side = network.config.vision_config.image_size
    if side != facts.image_size:
        raise CheckpointError(
            f"{folder} takes pictures of {side} pixels on a side; its {PREPROCESSOR} makes them {facts.image_size}"
        )
    return SafetySource(network, facts)
