"""A contestant for tests: a real process that speaks the protocol, with pictures by a formula and faults on demand.

Its clock counts a millisecond at each look, so that two runs give the same figures.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from workers.contestant import Asked, Contestant, Drawn  # as in a contestant's own environment
from workers.protocol import serve

_TICK = 2.0**-10  # seconds, nearly a millisecond: sums of it are exact


class Formula(Contestant):
    """Draws the noise itself, smoothed by the steps; `options` say what goes wrong, and when."""

    components = ("text_encoder", "unet", "vae_decoder")
    packages = ("numpy",)

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0
        self.options: dict[str, Any] = {}

    def open(self, model: Path, options: dict[str, Any]) -> None:
        if options.get("refuse"):
            raise RuntimeError(options["refuse"])
        self.options = options
        os.write(1, b"a library's chatter\n")
        counter = itertools.count(1)
        if not options.get("true clock"):
            time.perf_counter = lambda: next(counter) * _TICK  # type: ignore[assignment]

    def draw(self, asked: Asked) -> Drawn:
        self.drawn += 1
        if self.drawn == self.options.get("crash at"):
            os._exit(3)
        if self.drawn == self.options.get("hang at"):
            time.sleep(60)
        if len(asked.prompts) > self.options.get("most", 99):
            raise ValueError("no more than that at once")
        time.sleep(self.options.get("sleep", 0))
        self.clock.call("text_encoder", lambda: None)
        latents = asked.latents + self.options.get("error", 0.0)
        steps = []
        for _ in range(asked.num_inference_steps):
            latents = self.clock.call("unet", lambda x=latents: x * np.float32(0.5))
            steps.append(latents)
        whole = self.clock.call("vae_decoder", lambda: latents[:, :3].repeat(8, 2).repeat(8, 3))
        images = np.clip(whole * 40 * 2 ** len(steps) + 128, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
        return Drawn(images, latents, np.stack(steps) if asked.steps else None)

    def component(self, name: str, feeds: dict[str, Any]) -> dict[str, Any]:
        if name == self.options.get("without"):
            raise NotImplementedError(f"no {name} alone")
        outputs = {"text_encoder": "last_hidden_state", "unet": "out_sample", "vae_decoder": "sample"}
        return {outputs[name]: next(iter(feeds.values())).astype(np.float32) * 2}


if __name__ == "__main__":
    serve(Formula())
