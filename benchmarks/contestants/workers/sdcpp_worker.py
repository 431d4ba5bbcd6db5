"""stable-diffusion.cpp by its Python package, which pip compiles. Run as `python -m workers.sdcpp_worker`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from stable_diffusion_cpp import StableDiffusion, sd_log_callback, sd_set_log_callback

from .contestant import Asked, Contestant, Drawn
from .protocol import serve

SAMPLERS = {"euler": "euler", "dpmpp_2m": "dpm++2m"}
_ERROR = 3  # of its levels of messages: debug, information, warning, error


class StableDiffusionCppContestant(Contestant):
    """Options: more of `StableDiffusion`'s own, such as `diffusion_flash_attn`."""

    packages = ("stable-diffusion-cpp-python", "numpy", "pillow")
    takes_latents = False

    def __init__(self) -> None:
        super().__init__()
        self._errors: list[str] = []
        self._log = sd_log_callback(self._logged)  # held here, as the library does not hold it
        sd_set_log_callback(self._log, None)

    def open(self, model: Path, options: dict[str, Any]) -> None:
        """As `Contestant.open`: `model` is a diffusers folder or a checkpoint."""
        threads = len(os.sched_getaffinity(0))  # its own choice is half of the cores
        self._model = StableDiffusion(
            model_path=str(model), n_threads=threads, rng_type="cpu", vae_decode_only=True, verbose=True, **options
        )
        if not self._model.model:  # it says so nowhere else
            raise RuntimeError(f"it cannot load the model: {(self._errors or ['it does not say why'])[-1]}")
        self.notes = [f"{threads} threads"]

    def draw(self, asked: Asked) -> Drawn:
        """As `Contestant.draw`: one after another. It starts from its copy of torch's CPU generator."""
        if asked.sampler not in SAMPLERS:
            raise ValueError(
                f"stable-diffusion.cpp has no {asked.sampler} as diffusers has it; it has {', '.join(SAMPLERS)}"
            )
        images = [self._drawn(asked, prompt, seed) for prompt, seed in zip(asked.prompts, asked.seeds, strict=True)]
        return Drawn(np.stack(images))

    def _drawn(self, asked: Asked, prompt: str, seed: int) -> Any:
        def on_progress(_step: int, _steps: int, _seconds: float) -> None:
            self.clock.encoded = self.clock.encoded or time.perf_counter()  # told before the first step too

        [image] = self._model.generate_image(
            prompt=prompt,
            negative_prompt=asked.negative_prompt,
            width=asked.width,
            height=asked.height,
            cfg_scale=asked.guidance_scale,
            sample_method=SAMPLERS[asked.sampler],
            scheduler="discrete",
            sample_steps=asked.num_inference_steps,
            seed=seed,
            progress_callback=on_progress,
        )
        return np.asarray(image.convert("RGB"))

    def _logged(self, level: int, text: bytes, _data: Any) -> None:
        line = text.decode("utf-8", errors="replace").strip()
        print(line, file=sys.stderr, flush=True)
        if level >= _ERROR:
            self._errors.append(line)


if __name__ == "__main__":
    serve(StableDiffusionCppContestant())
