"""Contestants for trials: real processes of `formula_worker.py`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentrt.benchmarks.contestants.environments import WORKERS
from latentrt.benchmarks.contestants.remote import Refused, Remote
from latentrt.benchmarks.trial.contender import Contender, Equipped
from latentrt.benchmarks.trial.results import Environment, Settings

WORKER = Path(__file__).with_name("formula_worker.py")


def contender(name: str, **options: Any) -> Contender:
    """A contestant with these options of the worker; with `absent` it cannot be made ready."""

    def start(log: Path) -> Remote:
        return Remote([sys.executable, str(WORKER)], log, dict(os.environ) | {"PYTHONPATH": str(WORKERS)})

    def equip(report: Callable[[str], None]) -> Equipped:
        if "absent" in options:
            raise Refused(options["absent"])
        report("nothing to do")
        return Equipped(Environment(python="3"), start, WORKER, options)

    return Contender(name, name.title(), equip)


def small(*contestants: str, **others: Any) -> Settings:
    """Settings of a trial of a few seconds, but for what is given."""
    words: dict[str, Any] = {
        "bundle": "0" * 64,
        "prompts": ("a red circle", "a blue square"),
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
        "sampler": "euler",
        "width": 32,
        "height": 32,
        "rounds": 2,
        "pictures": 2,
        "calls": 2,
        "time_limit": 20.0,
    }
    return Settings(contestants=contestants, **(words | others))
