"""What decoding in tiles changes: pictures of the demo model, tiled and whole.

`python -m latentrt.benchmarks.tiling BUNDLE` writes `results/tiling.json`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.metrics import difference
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.tiling import decode_tiled

from .machine import write_result

PROMPTS = ("a large red circle on a blue background", "a white star on a green background", "a black cross")
CASES = ((256, 16), (256, 24), (384, 16), (384, 32))  # pixels on a side of the picture, latents of the tile
PROTOCOL = f"""The demo model (trained at 128x128), decoder kl-f8 in ONNX Runtime fp32: {len(PROMPTS)} prompts, seed =
index, 8 steps of dpmpp_2m, decoded whole and in tiles that share a quarter of their side; pictures clipped to black and
white. PSNR over all pictures' pixels together, the largest difference over all. The decoder attends to, and normalises
over, what it is given, so tiles differ everywhere and not at their seams alone."""


def main() -> None:
    """Measure every case; write the result."""
    figures = {}
    with Pipeline.open(Path(sys.argv[1])) as pipeline:
        for side, tile in CASES:
            latents = [
                pipeline.generate(
                    prompt, seed=seed, num_inference_steps=8, sampler="dpmpp_2m", width=side, height=side
                ).latents
                for seed, prompt in enumerate(PROMPTS)
            ]
            figures[f"{side}x{side}, {8 * tile}x{8 * tile}"] = compared(pipeline, np.concatenate(latents), tile)
    print(write_result("tiling", figures, " ".join(PROTOCOL.split())).read_text(encoding="utf-8"))


def compared(pipeline: Pipeline, latents: NDArray[np.float32], tile: int) -> dict[str, Any]:
    """Pictures of latents (n, 4, h, w), tiled beside whole."""
    calls = 0

    def decode(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        nonlocal calls
        calls += 1
        return pipeline.decode(rows)

    whole = np.clip(pipeline.decode(latents), -1, 1)
    tiled = np.clip(np.concatenate([decode_tiled(decode, row[None], tile) for row in latents]), -1, 1)
    found = difference(tiled, whole, data_range=2.0)
    return {
        "calls": calls // len(latents),
        "PSNR, dB": round(found.psnr, 2),
        "largest, of 255": round(found.max_abs * 255 / 2, 1),
    }


if __name__ == "__main__":
    main()
