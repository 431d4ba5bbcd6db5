"""What a whole picture costs beside its engine calls: a bundle's model in ONNX Runtime, on the CPU.

`python -m latentrt.benchmarks.whole_picture BUNDLE` writes `results/whole-picture.json`. With SD 1.5's true size a
picture takes some five minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from latentrt.engines.backend import DEFAULT, backend_names
from latentrt.runtime.pipeline import Pipeline

from .drawn import draw
from .machine import RESULTS, write_result

MOST = 1.01  # what was aimed at: a whole picture over the sum of its engine calls
PROMPT = "a red circle on a blue background"
PROTOCOL = """One guided picture, {side}x{side}, {steps} steps of euler, from prompt to picture object, drawn by
`Pipeline` with {engine}, all engines open and one step drawn before. Engine calls are timed around `Engine.run`: the
text encoder, the UNet at 2 rows, the decoder."""


def main() -> None:
    """Draw one picture; write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", choices=backend_names(), default=DEFAULT)
    parser.add_argument("--size", type=int, default=512, help="pixels on a side")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    arguments = parser.parse_args()
    figures = measure(arguments.bundle, arguments.engine, arguments.size, arguments.steps)
    protocol = PROTOCOL.format(side=arguments.size, steps=arguments.steps, engine=arguments.engine)
    target = write_result("whole-picture", figures, " ".join(protocol.split()), arguments.results)
    print(target.read_text(encoding="utf-8"))


def measure(bundle: Path, engine: str, side: int, steps: int) -> dict[str, Any]:
    """The figures of one picture, `side` pixels wide and high."""
    with Pipeline.open(bundle, engine=engine) as pipeline:
        draw(pipeline, PROMPT, num_inference_steps=1, width=side, height=side)
        drawn = draw(pipeline, PROMPT, num_inference_steps=steps, width=side, height=side)
    return {
        "picture, s": round(drawn.whole, 3),
        "engine calls, s": {name: round(seconds, 3) for name, seconds in drawn.engines.items()},
        "engine calls": drawn.calls,
        "picture over engine calls": round(drawn.over_engines, 4),
        "at most": MOST,
        "reached": drawn.over_engines <= MOST,
    }


if __name__ == "__main__":
    main()
