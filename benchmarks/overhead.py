"""What the denoising loop costs beside its engine: everything but `engine.run`, per step, 2 rows at 512x512.

`python -m latentrt.benchmarks.overhead` writes `results/overhead.json`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.engine import Engine
from latentrt.engines.fake_backend import FakeEngine
from latentrt.engines.key import EngineKey
from latentrt.engines.manifest import UNET, Component
from latentrt.engines.tensor import Feeds, TensorSpec
from latentrt.runtime.denoiser import Conditioning, Denoiser
from latentrt.runtime.guidance import Guidance
from latentrt.runtime.loop import DenoisingLoop, Job
from latentrt.runtime.noise import TorchCpuNoise
from latentrt.runtime.samplers import get_sampler, prepare
from latentrt.runtime.schedule import NoiseTable

from .machine import write_result

SIDE = 64  # 512 // 8
STEPS, REPEATS, IMPORTS = 50, 30, 11
MEASURED = ("euler", "euler_ancestral", "ddim", "pndm", "dpmpp_2m")  # the others do the like, once or twice a step
WIDTH = 768  # of SD 1.5's text embeddings
PROTOCOL = f"""Loop: one guided picture (2 rows, 512x512) with the fake engine, {STEPS} steps, {REPEATS} repeats after
one warm-up; (time of the loop - time inside engine.run) / steps, median and 90th percentile over repeats. Import:
'import latentrt; latentrt.Pipeline' in a fresh process, {IMPORTS} times, by that process's own clock; the median."""


class TimedEngine(FakeEngine):
    """The fake UNet, which also adds up the seconds spent inside it."""

    def __init__(self) -> None:
        image: tuple[int | str, ...] = ("rows", 4, "8*height", "8*width")
        component = Component(
            graph="",
            weights=(),
            golden="",
            max_abs_error=0.0,
            inputs=(
                TensorSpec(name="sample", dtype="float32", shape=image),
                TensorSpec(name="timestep", dtype="float32", shape=("rows",)),
                TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("rows", 77, WIDTH)),
            ),
            outputs=(TensorSpec(name="out_sample", dtype="float32", shape=image),),
        )
        key = EngineKey(
            component=UNET, graph="", weights="", backend="fake", backend_version="1", device="any",
            precision="fp32", profile="any",
        )  # fmt: skip
        super().__init__(UNET, component, key)
        self.seconds = 0.0

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Run and count the seconds."""
        started = time.perf_counter()
        outputs = super().run(feeds)
        self.seconds += time.perf_counter() - started
        return outputs


def main() -> None:
    """Measure some samplers and the import; write the result."""
    loop = {name: loop_overhead(name) for name in MEASURED}
    figures = {"loop, ms per step": loop, "import, s": import_seconds()}
    print(write_result("overhead", figures, " ".join(PROTOCOL.split())).read_text(encoding="utf-8"))


def loop_overhead(sampler: str) -> dict[str, float]:
    """Milliseconds per step outside of the engine: median and 90th percentile over repeats."""
    engine = TimedEngine()
    _draw(engine, sampler)
    figures = []
    for _ in range(REPEATS):
        engine.seconds = 0.0
        started = time.perf_counter()
        _draw(engine, sampler)
        figures.append((time.perf_counter() - started - engine.seconds) * 1e3 / STEPS)
    return {"median": round(statistics.median(figures), 3), "p90": round(float(np.quantile(figures, 0.9)), 3)}


def _draw(engine: Engine, sampler: str) -> None:
    schedule = prepare(sampler, NoiseTable(), STEPS)
    noise = TorchCpuNoise(0)
    x = noise.normal((1, 4, SIDE, SIDE)) * np.float32(schedule.init_scale)
    text = np.zeros((77, WIDTH), np.float32)
    job = Job(get_sampler(sampler).sample(x, schedule, noise), Conditioning(text, text, Guidance(7.5)), STEPS)
    loop = DenoisingLoop(Denoiser(engine, "epsilon", max_rows=8), max_rows=8)
    loop.join(job)
    while loop.step():
        pass


def import_seconds() -> float:
    """Median seconds of `import latentrt; latentrt.Pipeline` in a fresh process."""
    code = "import time; t = time.perf_counter(); import latentrt; latentrt.Pipeline; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True) for _ in range(IMPORTS)]
    return round(statistics.median(float(run.stdout) for run in runs), 3)


if __name__ == "__main__":
    main()
