"""What a contestant's answers are kept as: `.npz` files, which accuracy is computed from afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.errors import InputError

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Kept:
    """Files of one contestant, or of the bundle's recorded answers.

    Attributes:
        name: the contestant's, or "golden".
        pictures: one file for each prompt, as the order `draw` writes it: `images` (1, height, width, 3) uint8;
            `latents` (1, 4, height / 8, width / 8) float32, final, where they are told; `steps` (num_inference_steps,
            1, 4, ...) float32, after each step, where they are told.
        components: text_encoder, unet, vae_decoder: the outputs of a call by their names in a bundle, float32.
    """

    name: str
    pictures: tuple[Path, ...] = ()
    components: dict[str, Path] = field(default_factory=dict)


def read_arrays(file: Path) -> Arrays:
    """The arrays of a file.

    Raises:
        InputError: it is no `.npz` file, or it is damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(
            f"{file} does not hold the arrays that were kept: {error}; measure again with --fresh"
        ) from error
