"""Proof that the demo model learned: adherence on held-out captions, reconstruction, averaged against raw weights.

`python -m latentrt.benchmarks.demo_model` writes `results/demo-model.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from latentrt.engines.backend import get_backend
from latentrt.engines.bundle import Bundle, sha256
from latentrt.engines.manifest import OWN_DECODER, VAE_ENCODER, decoder_component
from latentrt.export.demo.config import CHECKPOINT
from latentrt.export.demo.scenes import Scene, draw, plain_caption, random_scene
from latentrt.export.export import export_bundle
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.request import Request

from .machine import write_result
from .quality import adherence as quality
from .quality.adherence import GUIDANCE, SAMPLER, STEPS, held_out

VAES = {name: CHECKPOINT / f"demo-vae-{name}.safetensors" for name in ("ft-ema", "ft-mse")}
AT_ONCE = 8  # requests in the loop together
UNSEEN_SCENES = 500
UNSEEN_SEED = 987_654_321  # no seed of the training

PROTOCOL = f"""Adherence: one picture, seed = index, {STEPS} steps of {SAMPLER}, decoder kl-f8, for every one-shape
caption whose combination of shape, colours and size training never shows; a picture counts when the checker
(scene_checker.py) finds the asked shape, colour and background. Reconstruction: PSNR per scene, averaged over
{UNSEEN_SCENES} scenes drawn from a seed that training does not use (encoder mean, then decoder)."""


def main() -> None:
    """Export both sets of weights, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=None, help="a sample of so many; nothing is written")
    limit = parser.parse_args().captions
    figures: dict[str, Any] = {"checkpoint, SHA-256": checkpoint_hashes()}
    with tempfile.TemporaryDirectory() as folder:
        for weights in ("ema", "raw"):
            bundle = Path(folder) / weights
            export_bundle(CHECKPOINT / "demo.safetensors", bundle, vaes=VAES, weights=weights)
            figures[f"{weights} weights, guidance {GUIDANCE:g}"] = adherence(bundle, GUIDANCE, limit)
            if weights == "ema":
                figures[f"{weights} weights, no guidance"] = adherence(bundle, 1.0, limit)
                figures["reconstruction PSNR, dB"] = reconstruction(bundle)
    print(json.dumps(figures, indent=2))
    if limit is None:
        write_result("demo-model", figures, " ".join(PROTOCOL.split()))


def checkpoint_hashes() -> dict[str, str]:
    """Which weights the figures are of."""
    return {file.name: sha256(file) for file in (CHECKPOINT / "demo.safetensors", *VAES.values())}


def adherence(bundle: Path, guidance_scale: float, limit: int | None = None) -> dict[str, Any]:
    """The share of held-out captions whose picture shows what they ask, and the share by each of its facts."""
    scenes = held_out(limit)
    pictures = (np.asarray(picture) for picture in _pictures(bundle, scenes, guidance_scale))
    shares = quality.adherence(pictures, scenes)
    return {"captions": len(scenes), **{fact: round(share, 4) for fact, share in shares.items()}}


def _pictures(bundle: Path, scenes: Sequence[Scene], guidance_scale: float) -> Iterable[Image.Image]:
    with Pipeline.open(bundle, max_rows=2 * AT_ONCE) as pipeline:
        for start in track(range(0, len(scenes), AT_ONCE), description=f"guidance {guidance_scale:g}"):
            requests = [
                Request(
                    prompt=plain_caption(scene),
                    guidance_scale=guidance_scale,
                    num_inference_steps=STEPS,
                    sampler=SAMPLER,
                    decoder=OWN_DECODER,
                    seed=start + index,
                )
                for index, scene in enumerate(scenes[start : start + AT_ONCE])
            ]
            drawings = [pipeline.start(request) for request in requests]
            while pipeline.step():
                pass
            for drawing in drawings:
                yield pipeline.finish(drawing).images[0]


def reconstruction(path: Path) -> dict[str, float]:
    """Mean PSNR in dB of each decoder on unseen scenes."""
    bundle = Bundle.open(path)
    backend = get_backend("onnxruntime")
    rng = np.random.default_rng(UNSEEN_SEED)
    scenes = [draw(random_scene(rng), rng) for _ in range(UNSEEN_SCENES)]
    with backend.open(bundle, VAE_ENCODER, None) as encoder:
        latents = [encoder.run({"sample": scene[None]})["latent_mean"] for scene in track(scenes, "encode")]
    figures = {}
    for name in bundle.manifest.decoders:
        with backend.open(bundle, decoder_component(name), None) as decoder:
            decoded = [decoder.run({"latent_sample": z})["sample"][0] for z in track(latents, name)]
        figures[name] = round(float(np.mean([_psnr(a, b) for a, b in zip(decoded, scenes, strict=True)])), 3)
    return figures


def _psnr(picture: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """In dB, for values in [-1, 1], clipped as a picture is."""
    error = np.square(np.clip(picture, -1, 1) - truth, dtype=np.float64).mean()
    return float(10 * np.log10(4 / error))


if __name__ == "__main__":
    main()
