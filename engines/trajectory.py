"""Short generations that PyTorch fp32 drew at export: what was asked, every latent on the way, and the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from .bundle import Bundle
from .errors import BundleError
from .manifest import ModelFacts, Precision

METADATA_KEY = "trajectories"  # of the safetensors file: a JSON list of `TrajectoryFacts`
NOISE = "noise"  # the tensor's name; `NAME/latents` and `NAME/image` are those of each trajectory

_Error = Annotated[float, msgspec.Meta(gt=0)]


class TrajectoryFloor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Relative L2 error of PyTorch's own run in one precision: of the latents after each step, and of the picture."""

    latents: tuple[_Error, ...]
    image: _Error


class TrajectoryFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was asked, in the words of a request."""

    name: str
    sampler: str
    steps: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    guidance_scale: Annotated[float, msgspec.Meta(ge=0, le=1000)]
    prompt: str
    negative_prompt: str
    seed: int
    floor: dict[Precision, TrajectoryFloor] = {}


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One recorded generation; all float32.

    `noise` is (1, 4, h, w), as drawn, before the schedule scales it; `latents` (steps, 1, 4, h, w), after each step, in
    variance-exploding space; `image` (1, 3, H, W) from the default decoder, about [-1, 1], not clipped.
    """

    facts: TrajectoryFacts
    noise: NDArray[np.float32]
    latents: NDArray[np.float32]
    image: NDArray[np.float32]


def load_trajectories(bundle: Bundle, path: str) -> list[Trajectory]:
    """The trajectories in a file of the bundle.

    Raises:
        BundleError: it is not readable, records none, or does not fit the model.
    """
    file = bundle.file(path)
    try:
        with safe_open(file, "np") as record:
            stated = msgspec.json.decode((record.metadata() or {})[METADATA_KEY], type=list[TrajectoryFacts])
            found = [_read(record, facts, bundle.manifest.model) for facts in stated]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:  # TypeError: a dtype that numpy has not
        raise BundleError(f"{bundle.root}: {path} is no record of trajectories: {error}") from error
    if not found:
        raise BundleError(f"{bundle.root}: {path} records no trajectory; export the bundle again")
    return found


def _read(record: Any, facts: TrajectoryFacts, model: ModelFacts) -> Trajectory:
    noise, latents, image = (
        record.get_tensor(name) for name in (NOISE, f"{facts.name}/latents", f"{facts.name}/image")
    )
    shape, factor = noise.shape, model.vae_scale_factor
    sides = [side * factor for side in shape[2:]]
    fits = (
        len(shape) == 4
        and shape[:2] == (1, model.latent_channels)
        and not any(side == 0 or side % model.size_multiple for side in sides)
        and latents.shape == (facts.steps, *shape)
        and image.shape == (1, 3, *sides)
        and all(len(floor.latents) == facts.steps for floor in facts.floor.values())
    )
    if not fits:
        raise ValueError(f"{facts.name} has noise {shape}, latents {latents.shape} and an image {image.shape}")
    for array in (noise, latents, image):
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError(f"{facts.name} holds {array.dtype} or what is no number")
    return Trajectory(facts, noise, latents, image)
