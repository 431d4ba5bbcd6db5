"""Speed against fidelity: how close each sampler comes to the exact path in so many steps, on the demo model.

`python -m latentrt.benchmarks.fidelity` writes `results/fidelity.json` and `docs/fidelity.svg`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from latentrt.engines.metrics import difference
from latentrt.export.demo.config import CHECKPOINT
from latentrt.export.demo.scenes import Scene, plain_caption
from latentrt.export.export import export_bundle
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.request import Request

from .fidelity_plot import write_plot
from .machine import write_result
from .quality.adherence import held_out
from .trial.results import MOST_PSNR

QUICK_STEPS = (2, 6)
STEPS = (1, 2, 4, 6, 8, 10, 15, 20, 30, 50)
PATHS = (  # deterministic samplers, with their own spacing unless one is named
    ("euler", None),
    ("ddim", None),
    ("heun", None),
    ("lms", None),
    ("pndm", None),
    ("deis", None),
    ("dpmpp_2m", None),
    ("dpmpp_2m", "karras"),
    ("unipc", None),
)
REFERENCE = ("heun", "karras", 200)  # sampler, spacing, steps
GUIDANCE = 3.0
CAPTIONS = 8  # in the loop together
REPEATS = 3

PROTOCOL = f"""The demo model, ONNX Runtime fp32, 128x128, guidance {GUIDANCE:g}: {CAPTIONS} held-out captions,
seed = index. Error: to the latents and pictures that {REFERENCE[0]} gives in {REFERENCE[2]} steps of {REFERENCE[1]}
spacing from the same start noise, the median over the captions; relative L2 of the final latents, PSNR of the 8-bit
pictures. Every deterministic sampler follows the same probability-flow ODE, which {REFERENCE[0]}, of second order, has
solved by then; the ends and the rounding of their paths differ a little, so each comes to rest at a distance of its
own. Calls are of the UNet, two rows each. Seconds are of one picture, prompt to decoded
picture, the fastest of {REPEATS}, the samplers taking turns."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a path gave: latents (n, 4, 16, 16), pictures (n, 128, 128, 3) uint8, and UNet questions of each."""

    latents: NDArray[np.float32]
    pictures: NDArray[np.uint8]
    calls: int


def main() -> None:
    """Export the demo model, measure, write the result and its picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few captions and steps; nothing is written")
    quick = parser.parse_args().quick
    scenes, steps, many = (held_out(2), QUICK_STEPS, 20) if quick else (held_out(CAPTIONS), STEPS, REFERENCE[2])
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "demo"
        export_bundle(CHECKPOINT / "demo.safetensors", bundle, vaes={})
        with Pipeline.open(bundle, max_rows=2 * CAPTIONS) as pipeline:
            figures = measure(pipeline, scenes, steps, many)
    print(json.dumps(figures, indent=2))
    if not quick:
        write_result("fidelity", figures, " ".join(PROTOCOL.split()))
        write_plot(figures)


def measure(pipeline: Pipeline, scenes: Sequence[Scene], steps: Sequence[int], many: int) -> dict[str, Any]:
    """By path: a point for each number of steps, against the reference's sampler in `many`."""
    exact = draw(pipeline, scenes, REFERENCE[0], REFERENCE[1], many)
    figures: dict[str, Any] = {}
    for sampler, spacing in track(PATHS, "fidelity"):
        points = [point(draw(pipeline, scenes, sampler, spacing, n), exact, n) for n in steps]
        figures[path_name(sampler, spacing)] = {"points": points}
    for index, n in enumerate(steps):
        for (sampler, spacing), fastest in _seconds(pipeline, scenes[0], n).items():
            figures[path_name(sampler, spacing)]["points"][index]["seconds"] = float(f"{fastest:.3g}")
    return figures


def path_name(sampler: str, spacing: str | None) -> str:
    """The sampler, and its spacing where that is not its own."""
    return sampler if spacing is None else f"{sampler}, {spacing}"


def point(found: Drawn, exact: Drawn, steps: int) -> dict[str, Any]:
    """The figures of one number of steps."""
    errors = [difference(a, e).relative_l2 for a, e in zip(found.latents, exact.latents, strict=True)]
    psnr = [difference(a, e, data_range=255).psnr for a, e in zip(found.pictures, exact.pictures, strict=True)]
    return {
        "steps": steps,
        "calls": found.calls,
        "relative L2": float(f"{median(errors):.3g}"),
        "PSNR, dB": round(min(MOST_PSNR, float(median(psnr))), 2),
    }


def draw(pipeline: Pipeline, scenes: Sequence[Scene], sampler: str, spacing: str | None, steps: int) -> Drawn:
    """A picture of every scene, all in the loop together."""
    requests = [request(scene, seed, sampler, spacing, steps) for seed, scene in enumerate(scenes)]
    drawings = [pipeline.start(one) for one in requests]
    calls = 0
    while pipeline.step():
        calls += 1  # all of them ask the same number of questions
    results = [pipeline.finish(drawing) for drawing in drawings]
    latents = np.concatenate([result.latents for result in results])
    return Drawn(latents, np.stack([np.asarray(result.images[0]) for result in results]), calls)


def request(scene: Scene, seed: int, sampler: str, spacing: str | None, steps: int) -> Request:
    """One picture of a scene."""
    return Request(
        prompt=plain_caption(scene),
        guidance_scale=GUIDANCE,
        num_inference_steps=steps,
        sampler=sampler,
        spacing=spacing,
        seed=seed,
    )


def _seconds(pipeline: Pipeline, scene: Scene, steps: int) -> dict[tuple[str, str | None], float]:
    """The fastest of several pictures by each path, which take turns."""
    fastest = dict.fromkeys(PATHS, float("inf"))
    for _ in range(REPEATS):
        for path in PATHS:
            started = time.perf_counter()
            draw(pipeline, [scene], path[0], path[1], steps)
            fastest[path] = min(fastest[path], time.perf_counter() - started)
    return fastest


if __name__ == "__main__":
    main()
