"""What `benchmarks/engines_gpu.py` compares: PyTorch as diffusers runs it, and latentrt's engines of the same model."""

from __future__ import annotations

import importlib
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.engines import store
from latentrt.engines.backend import NEED_BUILDING, get_backend
from latentrt.engines.bundle import Bundle
from latentrt.engines.choice import Wanted
from latentrt.engines.engine_set import open_engine
from latentrt.engines.errors import LatentrtError
from latentrt.engines.golden import GoldenCase, golden_cases
from latentrt.engines.manifest import TEXT_ENCODER, UNET, Precision, decoder_component
from latentrt.engines.metrics import difference
from latentrt.engines.options import BuildOptions
from latentrt.engines.tensor import Feeds
from latentrt.runtime.pipeline import Pipeline

from .drawn import draw

PROMPT = "a red circle on a blue background"


@dataclass(frozen=True)
class Entry:
    """One contestant: `library` is "torch", or a backend of latentrt."""

    library: str
    precision: Precision
    compiled: bool = False
    channels_last: bool = False  # ONNX Runtime's convolutions

    @property
    def name(self) -> str:
        """As the table has it: "torch fp16 compiled"."""
        words = [word for word in ("compiled", "channels_last") if getattr(self, word)]
        return " ".join([self.library, self.precision, *words]).replace("_", " ")


EAGER = Entry("torch", "fp16")
ENTRIES = {  # by device: torch, then the engines in the order in which they are built
    "cuda": (
        EAGER,
        Entry("torch", "fp16", compiled=True),
        Entry("onnxruntime-cuda", "fp16"),
        Entry("onnxruntime-cuda", "fp16", channels_last=True),
        Entry("tensorrt", "fp16"),
        Entry("tensorrt-rtx", "fp16"),
    ),
    "cpu": (Entry("torch", "fp32"), Entry("onnxruntime", "fp32")),
}


class Contestant(ABC):
    """A model that is ready: it answers calls of its UNet, and draws pictures."""

    @abstractmethod
    def answer(self, feeds: Feeds) -> NDArray[Any]:
        """One call of the UNet, from host memory to host memory."""

    @abstractmethod
    def seconds(self, feeds: Sequence[Feeds], calls: int) -> list[float]:
        """Of so many calls, by a clock that waits for the device; the feeds take turns."""

    @abstractmethod
    def picture(self, steps: int) -> dict[str, Any]:
        """Draw one guided picture of the model's own size with Euler steps; seconds, and where they went."""

    def errors(self, cases: Sequence[GoldenCase]) -> dict[str, float]:
        """Relative L2 error of each recorded call against PyTorch fp32."""
        found = {case.name: self._error(case) for case in cases}
        return {name: float(f"{error:.3g}") for name, error in found.items()}

    def _error(self, case: GoldenCase) -> float:
        [expected] = case.outputs.values()
        return difference(self.answer(case.inputs), expected).relative_l2

    def not_finite(self, feeds: Feeds) -> dict[str, int]:
        """How many numbers of the answer are NaN or infinite, for each of some extreme inputs made from `feeds`."""
        return {
            name: int(np.count_nonzero(~np.isfinite(self.answer(dict(feeds) | changed))))
            for name, changed in _extremes(feeds).items()
        }


class EngineContestant(Contestant):
    """A pipeline of latentrt, its engines built first where they need to be."""

    def __init__(self, entry: Entry, bundle: Path) -> None:
        options, place = BuildOptions(precision=entry.precision), bundle.parent / f"engines of {entry.name}"
        if entry.channels_last:
            onnxruntime_cuda = importlib.import_module("latentrt.engines.onnxruntime_cuda_backend")
            setattr(onnxruntime_cuda, "CHANNELS_LAST", {entry.precision})  # noqa: B010 - in this process alone
        if entry.library in NEED_BUILDING:
            backend, opened = get_backend(entry.library, options), Bundle.open(bundle, place)
            if (obstacle := backend.obstacle()) is not None:
                raise RuntimeError(obstacle)
            store.build(backend, opened, UNET)
        self._pipeline: Pipeline | Exception
        try:  # a UNet that is timed alone is better than none
            if entry.library in NEED_BUILDING:
                for component in (TEXT_ENCODER, decoder_component(opened.manifest.default_decoder)):
                    store.build(backend, opened, component)
            self._pipeline = Pipeline.open(bundle, engine=entry.library, precision=entry.precision, engine_dir=place)
            self._unet = self._pipeline.engines[UNET]
        except LatentrtError as error:
            wanted = Wanted(engine=entry.library, precision=entry.precision)
            self._pipeline, self._unet = error, open_engine(Bundle.open(bundle, place), UNET, wanted)

    def answer(self, feeds: Feeds) -> NDArray[Any]:
        """As `Contestant.answer`."""
        [output] = self._unet.run(feeds).values()
        return output

    def seconds(self, feeds: Sequence[Feeds], calls: int) -> list[float]:
        """As `Contestant.seconds`: an engine's answers are in host memory when it returns."""
        found = []
        for given in itertools.islice(itertools.cycle(feeds), calls):
            started = time.perf_counter()
            self._unet.run(given)
            found.append(time.perf_counter() - started)
        return found

    def picture(self, steps: int) -> dict[str, Any]:
        """As `Contestant.picture`."""
        if isinstance(self._pipeline, Exception):
            raise self._pipeline
        drawn = draw(self._pipeline, PROMPT, num_inference_steps=steps)
        return {
            "seconds": drawn.whole,
            "engine calls, s": drawn.engines,
            "loop overhead": drawn.loop_overhead,
            "over engine calls": drawn.over_engines,
        }


def recorded(bundle: Path) -> list[GoldenCase]:
    """The calls of the UNet that PyTorch fp32 answered."""
    return golden_cases(Bundle.open(bundle), UNET)


def _extremes(feeds: Feeds) -> dict[str, dict[str, NDArray[Any]]]:
    sample, text, timestep = (feeds[name] for name in ("sample", "encoder_hidden_states", "timestep"))
    spike = sample.copy()
    spike[..., 0, 0] = 1e4
    return {
        "latents 0": {"sample": np.zeros_like(sample)},
        "latents x30": {"sample": sample * np.float32(30)},
        "a latent of 1e4": {"sample": spike},
        "text 0": {"encoder_hidden_states": np.zeros_like(text)},
        "text x30": {"encoder_hidden_states": text * np.float32(30)},
        "timestep 0": {"timestep": np.zeros_like(timestep)},
        "timestep 999": {"timestep": np.full_like(timestep, 999)},
    }
