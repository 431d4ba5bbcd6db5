"""What the bundle has of PyTorch, as orders to a contestant: the reference where no PyTorch takes part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines.bundle import Bundle

from .golden import golden
from .kept import Kept


@dataclass(frozen=True)
class Recorded:
    """PyTorch's answers and pictures, and what to ask to get the same.

    Attributes:
        kept: the answers.
        asked: words of the order `draw`, one for each picture of `kept`.
        feeds: of calls, by component.
    """

    kept: Kept
    asked: tuple[dict[str, Any], ...]
    feeds: dict[str, Path]


def recorded(bundle: Bundle, folder: Path) -> Recorded:
    """Write the recorded answers of a bundle, in the form of a contestant's, into a folder.

    A bundle that was packed has less of them, or none.

    Raises:
        BundleError: they cannot be read.
    """
    folder.mkdir(exist_ok=True)
    found = golden(bundle, folder)
    if found.noise is None:
        return Recorded(found.kept, (), found.feeds)
    noise = folder / "noise.npy"
    np.save(noise, found.noise)
    height, width = (8 * side for side in found.noise.shape[2:])
    asked = tuple(
        {
            "prompts": [facts.prompt],
            "seeds": [facts.seed],
            "negative_prompt": facts.negative_prompt,
            "num_inference_steps": facts.steps,
            "guidance_scale": facts.guidance_scale,
            "sampler": facts.sampler,
            "width": width,
            "height": height,
            "latents": str(noise),
            "steps": True,
        }
        for facts in found.asked
    )
    return Recorded(found.kept, asked, found.feeds)
