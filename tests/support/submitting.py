"""Requests that are submitted to a pipeline, and its thread held still while they are."""

from __future__ import annotations

import threading
from typing import Any

from latentrt import Pipeline
from latentrt.engines.fake_backend import FakeEngine
from latentrt.runtime.loop import Step
from latentrt.runtime.submission import Submission

OPTIONS = [
    {"prompt": "a red star", "num_inference_steps": 6, "seed": 1},
    {"prompt": "a white circle", "num_inference_steps": 3, "seed": 2, "guidance_scale": 1.0, "sampler": "ddim"},
    {"prompt": "a blue cross", "num_inference_steps": 5, "seed": 3, "sampler": "euler_ancestral"},
    {"prompt": "a star", "num_inference_steps": 4, "seed": 4, "width": 96, "sampler": "heun"},
    {"prompt": None, "num_inference_steps": 4, "seed": 5, "num_images_per_prompt": 2},
]


class Gate:
    """A listener that stops the worker in the first step of a request until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, step: Step) -> None:
        self.reached.set()
        assert self.opened.wait(30)


def rows_of(pipe: Pipeline, component: str = "unet") -> list[int]:
    engine = pipe.engines[component]
    assert isinstance(engine, FakeEngine)
    return engine.rows


def held_back(pipe: Pipeline, wanted: list[dict[str, Any]]) -> list[Submission]:
    """Submissions that the worker, which is busy meanwhile, finds all at once; they are let go."""
    gate = Gate()
    first = pipe.submit("a star", num_inference_steps=1, on_step=gate)
    assert gate.reached.wait(30)
    submissions = [pipe.submit(**options) for options in wanted]
    gate.opened.set()
    first.result(30)
    return submissions
