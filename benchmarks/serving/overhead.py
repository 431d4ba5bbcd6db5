"""What a step costs more by HTTP than in a bare loop: with an engine that takes no time to speak of."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from latentrt.runtime.pipeline import Pipeline

from .load import ask
from .served import served

ENGINE = "fake"  # answers in closed form
STEPS = (10, 110)


def overhead(bundle: Path, body: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """Requests of few and of many steps, in turn by HTTP and by `Pipeline.generate`: what each further step takes."""
    found: dict[str, dict[int, list[float]]] = {name: {steps: [] for steps in STEPS} for name in ("server", "loop")}
    with (
        Pipeline.open(bundle, engine=ENGINE) as pipeline,
        served(bundle, "--engine", ENGINE) as server,
        server.client() as client,
    ):
        for _ in range(rounds):
            for steps in STEPS:
                answered = ask(client, {**body, "num_inference_steps": steps, "seed": 0})
                found["server"][steps].append(answered.seconds)
                started = time.perf_counter()
                pipeline.generate(body["prompt"], num_inference_steps=steps, seed=0)
                found["loop"][steps].append(time.perf_counter() - started)
    few, many = STEPS
    each = {name: 1e3 * (median(some[many]) - median(some[few])) / (many - few) for name, some in found.items()}
    return {"ms a step": each, "more by HTTP, ms": each["server"] - each["loop"], "samples, s": found}
