"""What every contestant is given alike: start noise, and the feeds of single calls, as files beside the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.bundle import Bundle
from latentrt.engines.golden import golden_cases
from latentrt.engines.manifest import TEXT_ENCODER, UNET
from latentrt.runtime.noise import TorchCpuNoise
from latentrt.runtime.tokenizer import ClipTokenizer

from .plan import VAE_DECODER
from .results import Settings

_TIMESTEP = 500.0  # of a single call; a network takes the same time for each
_FEED_SEED = 20_240_229


@dataclass(frozen=True)
class Inputs:
    """Orders of pictures, and feeds of calls, by component.

    Attributes:
        words: that all pictures share, as the order `draw` takes them.
    """

    settings: Settings
    folder: Path
    words: dict[str, Any]
    feeds: dict[str, Path]

    def picture(self, index: int, steps: bool = False) -> dict[str, Any]:
        """What to ask for one prompt; `index` counts on through the prompt set, and round it."""
        return self.pictures([index % len(self.settings.prompts)], steps)

    def pictures(self, indices: Sequence[int], steps: bool = False) -> dict[str, Any]:
        """What to ask for several at once, each with the noise of its own seed; beyond the prompt set seeds go on."""
        prompts, seeds = self.settings.prompts, [self.settings.seed + index for index in indices]
        return {
            **self.words,
            "prompts": [prompts[index % len(prompts)] for index in indices],
            "seeds": seeds,
            "latents": str(self._noise(seeds)),
            "steps": steps,
        }

    def _noise(self, seeds: Sequence[int]) -> Path:
        """(n, 4, height / 8, width / 8) float32, row by row as PyTorch's CPU generator draws it from each seed."""
        file = self.folder / f"noise-{'-'.join(map(str, seeds))}.npy"
        if not file.exists():
            shape = (1, 4, self.settings.height // 8, self.settings.width // 8)
            np.save(file, np.concatenate([TorchCpuNoise(seed).normal(shape) for seed in seeds]))
        return file


def make_inputs(bundle: Bundle, settings: Settings, folder: Path) -> Inputs:
    """Write the feeds; noise is written when it is first asked for.

    Raises:
        BundleError: the bundle's tokenizer or recorded answers cannot be read.
    """
    folder.mkdir(exist_ok=True)
    words = {
        name: getattr(settings, name)
        for name in ("negative_prompt", "num_inference_steps", "guidance_scale", "sampler", "width", "height")
    }
    feeds = {}
    for name, arrays in _feeds(bundle, settings).items():
        feeds[name] = folder / f"{name}.npz"
        np.savez(feeds[name], allow_pickle=False, **arrays)
    return Inputs(settings, folder, words, feeds)


def _feeds(bundle: Bundle, settings: Settings) -> dict[str, dict[str, NDArray[Any]]]:
    """One call of each network as one guided picture of this size makes it: two rows of text, two of the UNet."""
    rows = 2 if settings.guidance_scale > 1 else 1
    tokenizer = ClipTokenizer.from_file(bundle.file(bundle.manifest.tokenizer))
    texts = (settings.prompts[0], settings.negative_prompt)[:rows]
    shape = (1, 4, settings.height // 8, settings.width // 8)
    noise = TorchCpuNoise(_FEED_SEED).normal(shape)
    return {
        TEXT_ENCODER: {"input_ids": np.stack([tokenizer.encode(text).ids for text in texts])},
        UNET: {
            "sample": np.repeat(noise, rows, axis=0),
            "timestep": np.full(rows, _TIMESTEP, np.float32),
            "encoder_hidden_states": _text_embeddings(bundle, rows),
        },
        VAE_DECODER: {"latent_sample": noise},
    }


def _text_embeddings(bundle: Bundle, rows: int) -> NDArray[np.float32]:
    """(rows, 77, width): those of a recorded call, or where none was packed, of their spread."""
    component = bundle.component(UNET)
    if component.golden is not None:
        cases = [case.inputs["encoder_hidden_states"] for case in golden_cases(bundle, UNET)]
        found = next((states for states in cases if states.shape[1] == 77), cases[0][:, :77])
        return np.ascontiguousarray(np.resize(found, (rows, *found.shape[1:])), np.float32)
    [spec] = [spec for spec in component.inputs if spec.name == "encoder_hidden_states"]
    width = spec.shape[2]
    assert isinstance(width, int)
    return TorchCpuNoise(_FEED_SEED + 1).normal((rows, 77, width))
