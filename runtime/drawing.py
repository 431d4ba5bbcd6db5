"""A request on its way through a pipeline, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from .loop import Job
from .prompt.encoder import EncodedPrompts
from .request import Plan, Request


@dataclass(frozen=True, eq=False)
class Result:
    """Finished pictures.

    `images` are 8-bit RGB and carry `facts[i]` as text when saved as PNG; `latents` is (n, 4, height / 8, width / 8)
    float32, before decoding, in the units that the decoder takes times `scaling_factor`. `flagged[i]` says whether the
    safety checker flagged picture i, which is then black (its latents are not); None where no checker looked.
    """

    images: list[Image]
    latents: NDArray[np.float32]
    facts: list[dict[str, str]]
    flagged: list[bool] | None = None


@dataclass(frozen=True, eq=False)
class Decoded:
    """One decoded picture, (3, height, width) in about [-1, 1], float32: black where the safety checker flagged it.

    `flagged` is None where no checker looked.
    """

    pixels: NDArray[np.float32]
    flagged: bool | None = None


@dataclass(frozen=True, eq=False)
class Drawing:
    """A request on its way: what was asked, what that means for this bundle, and its place in the loop."""

    request: Request
    plan: Plan
    texts: EncodedPrompts
    job: Job
