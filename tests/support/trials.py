"""Results of trials that never ran, for what reads results; their figures mean nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latentrt.benchmarks.trial.results import (
    Accuracy,
    Compared,
    Conditions,
    Contestant,
    Environment,
    Machine,
    Memory,
    Point,
    Results,
    Settings,
    Spread,
    Timing,
)

HOSTILE = '<script>alert("x")</script> | a *star* `code` [link](http://example.org) $x^2$ & "quotes" \\ é 星\nnext line'


def timing(middle: float, count: int = 12) -> Timing:
    samples = tuple(middle * (1 + 0.05 * math.sin(turn)) for turn in range(count))
    low, high = middle * 0.98, middle * 1.02
    return Timing(samples=samples, p50=middle, p90=middle * 1.04, p99=middle * 1.05, low=low, high=high)


def compared(error: float, *, ssim: bool = False) -> Compared:
    def about(value: float) -> Spread:
        return Spread(p50=value, worst=value * 1.1)

    found: Compared = {"max abs": about(error * 4), "relative L2": about(error), "cosine": about(1 - error**2)}
    found["PSNR, dB"] = about(-20 * math.log10(error))
    if ssim:
        found["SSIM"] = about(0.9)
    return found


def accuracy(error: float) -> Accuracy:
    return Accuracy(
        reference="torch",
        components={"unet": compared(error / 2), "vae_decoder": compared(error / 3)},
        steps=tuple(compared(error * step / 4) for step in range(1, 5)),
        latents=compared(error),
        picture=compared(error, ssim=True),
    )


def contestant(middle: float, error: float | None = None, **changes: Any) -> Contestant:
    points = tuple(Point(count=count, pictures_per_second=timing(count**0.5 / middle)) for count in (1, 2, 4))
    waits = tuple(
        Point(count=count, pictures_per_second=timing(1 / middle), latency=timing(middle * count)) for count in (1, 4)
    )
    given: dict[str, Any] = {
        "state": "measured",
        "title": "a contestant",
        "environment": Environment(
            python="3.11.7", versions={"numpy": "2.4.6"}, requirements=("a==1",), installed=9**9
        ),
        "opening": timing(middle * 3),
        "cold_start": timing(middle * 5),
        "latency": {"prompt to PNG bytes": timing(middle), "denoise+decode": timing(middle * 0.9)},
        "components": {"text_encoder": timing(middle / 50), "unet": timing(middle / 10)},
        "parts": {"text_encoder": middle / 50, "unet": middle * 0.8, "vae_decoder": middle / 10},
        "inside": 0.92,
        "batches": points,
        "concurrency": waits,
        "memory": Memory(rss=2 * 10**9),
        "files": 10**9,
        "accuracy": None if error is None else accuracy(error),
        "quality": {"adherence": 0.92},
    }
    return Contestant(**(given | changes))


def failed(reason: str) -> Contestant:
    return Contestant(state="failed", reason=reason, title="a contestant", environment=Environment(python="3.11.7"))


def results(contestants: dict[str, Contestant], **changes: Any) -> Results:
    prompts = ("a red circle on a blue background", "a small yellow star on a black background")
    settings: dict[str, Any] = {
        "bundle": "0" * 64,
        "contestants": tuple(contestants),
        "prompts": prompts,
        "num_inference_steps": 4,
        "guidance_scale": 7.5,
        "sampler": "euler",
        "width": 128,
        "height": 128,
        "rounds": 3,
        "pictures": 4,
        "batches": (1, 2, 4),
        "concurrency": (1, 4),
    } | changes.pop("settings", {})
    given: dict[str, Any] = {
        "started": "2026-11-23T13:00:00+00:00",
        "seconds": 100.0,
        "latentrt": "0.1.0",
        "machine": Machine(processor="a processor", cores=2, memory=25 * 10**9, system="Linux x86_64"),
        "conditions": Conditions(others=0.02, worst_others=0.1),
        "settings": Settings(**settings),
        "contestants": contestants,
    }
    return Results(**(given | changes))


def whole(**changes: Any) -> Results:
    """A trial in which all went well, but for one contestant."""
    found = {
        "torch": contestant(2.0),
        "torch-bf16": contestant(1.2, 1e-2),
        "latentrt": contestant(1.0, 1e-5),
        "openvino-genai": failed("pip could not install it: no matching distribution"),
    }
    return results(found, **({"floor": "torch-bf16"} | changes))


def with_pictures(found: Results, folder: Path) -> Results:
    """The same, with a picture of each prompt by everyone that did not fail, beside the results."""
    import msgspec

    pictures: dict[str, tuple[str, ...]] = {}
    names = [name for name, one in found.contestants.items() if one.state == "measured"]
    (folder / "pictures").mkdir(exist_ok=True)
    for offset, name in enumerate(names):
        files = []
        for index in range(len(found.settings.prompts)):
            pixels = np.random.default_rng(index).integers(0, 200, (64, 64, 3)) + offset
            files.append(f"pictures/{offset}-{index}.png")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / files[-1])
        pictures[name] = tuple(files)
    return msgspec.structs.replace(found, pictures=pictures)
