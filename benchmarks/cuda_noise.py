"""Record PyTorch's own noise on the GPU of this machine, for the tests to hold `runtime/cuda_noise.py` against.

`python -m latentrt.benchmarks.cuda_noise tests/runtime/data` writes `cuda_noise_<GPU>.json`, some 300 KB; it needs a
PyTorch with CUDA.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

SEEDS = (0, 42, 2**40 + 5, -1)
SHAPES = ((1, 4, 64, 64), (3, 5), (2, 4, 96, 64), (8, 4, 128, 128), (1, 4, 64, 64), (64, 4, 128, 128), (7, 11))
KEPT = 4096  # normals of a draw that are recorded: every n-th, so that all parts of the grid are there
TOLERANCE = 2e-6


def main(folder: Path) -> None:
    """Record every seed and draw, and write the file."""
    properties = torch.cuda.get_device_properties(0)
    record = {
        "device": properties.name,
        "source": f"torch {torch.__version__}, python -m latentrt.benchmarks.cuda_noise",
        "gpu": f"{properties.multi_processor_count}x{properties.max_threads_per_multi_processor}",
        "tolerance": TOLERANCE,
        "streams": [_stream(seed) for seed in SEEDS],
    }
    name = re.sub(r"\W+", "_", properties.name.lower())
    path = folder / f"cuda_noise_{name}.json"
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    print(path)


def _stream(seed: int) -> dict[str, Any]:
    normals = torch.Generator("cuda").manual_seed(seed)
    integers = torch.Generator("cuda").manual_seed(seed)
    return {"seed": seed, "draws": [_draw(shape, normals, integers) for shape in SHAPES]}


def _draw(shape: tuple[int, ...], normals: torch.Generator, integers: torch.Generator) -> dict[str, Any]:
    """Some normals of one draw, and the hash of all its integers (the low 31 bits of each)."""
    drawn = torch.randn(shape, device="cuda", generator=normals).cpu().numpy().reshape(-1)
    bits = torch.empty(shape, dtype=torch.int32, device="cuda").random_(generator=integers).cpu().numpy()
    every = math.ceil(drawn.size / KEPT)
    return {
        "shape": list(shape),
        "every": every,
        "normals": [float(value) for value in drawn[::every]],
        "integers_sha256": hashlib.sha256(np.ascontiguousarray(bits, "<u4").tobytes()).hexdigest(),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
