"""How a trial speaks with a contestant: orders come in on standard input, one JSON object a line, answers go out.

This file runs in every contestant's environment: Python's own library and numpy, nothing else, not latentrt either.
Each answer is `{"found": ...}` or `{"error": "one line"}`. Whatever libraries print goes to standard error. Arrays
travel as `.npz` files, whose paths are in the orders.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import numpy as np

Array = Any  # np.ndarray; this file runs where numpy has no generic types


@dataclass(frozen=True)
class Asked:
    """Pictures to draw at once: of prompts that share everything but text and noise.

    Attributes:
        prompts: one for each picture.
        seeds: of the noise, where a contestant draws its own.
        latents: (n, 4, height / 8, width / 8) float32 unit noise to start from; None leaves it to the seeds.
        sampler: "euler", "ddim" or "dpmpp_2m"; each contestant knows its own name for it.
        steps: whether the latents after each step are wanted, which may take time.
    """

    prompts: list[str]
    seeds: list[int]
    negative_prompt: str
    num_inference_steps: int
    guidance_scale: float
    sampler: str
    width: int
    height: int
    latents: Array | None = None
    steps: bool = False


@dataclass
class Drawn:
    """What came of it.

    Attributes:
        images: (n, height, width, 3) uint8.
        latents: (n, 4, height / 8, width / 8) float32, final, as the decoder gets them but for its scaling factor;
            None where the contestant does not give them.
        steps: (num_inference_steps, n, 4, ...) float32, after each step; None where it does not give them.
    """

    images: Array
    latents: Array | None = None
    steps: Array | None = None


@dataclass
class Clock:
    """Where the time of a picture goes: seconds by component, and when the texts were encoded."""

    components: dict[str, list[float]] = field(default_factory=dict)
    encoded: float | None = None

    def call(self, component: str, function: Callable[[], Any]) -> Any:
        """Call a network, and count it."""
        started = time.perf_counter()
        answer = function()
        self.components.setdefault(component, []).append(time.perf_counter() - started)
        if component == "text_encoder":
            self.encoded = time.perf_counter()
        return answer


class Contestant(ABC):
    """One way to draw pictures with Stable Diffusion 1.5. Made when the process starts; opened by an order."""

    packages: tuple[str, ...] = ()  # whose versions are told
    takes_latents = True  # whether pictures start from noise that it is given
    components: tuple[str, ...] = ()  # of text_encoder, unet, vae_decoder: those that `component` calls

    def __init__(self) -> None:
        self.clock = Clock()
        self._one_at_a_time = threading.Lock()

    def prepare(self, source: Path, target: Path, options: dict[str, Any]) -> None:  # noqa: B027 - most need nothing
        """Convert the weights at `source` to the form this contestant opens, in the new folder `target`."""

    @abstractmethod
    def open(self, model: Path, options: dict[str, Any]) -> None:
        """Get ready to draw: `model` is what `prepare` wrote, or the source itself where it writes nothing."""

    @abstractmethod
    def draw(self, asked: Asked) -> Drawn:
        """Draw pictures, counting the calls of networks in `clock` where they can be told apart."""

    def component(self, name: str, feeds: dict[str, Array]) -> dict[str, Array]:
        """One call of a network, by ONNX names: sample, timestep, encoder_hidden_states; input_ids; latent_sample.

        Its answer is named as in a bundle: out_sample, last_hidden_state, sample. All float32, `input_ids` int64.
        """
        raise NotImplementedError

    def load(self, ask: list[Asked], clients: int) -> list[float]:
        """Draw single pictures for so many clients, each asking again when it is answered; seconds of each picture.

        One picture at a time, the others waiting, unless a contestant can do better.
        """
        waiting, seconds = iter(ask), []
        guard = threading.Lock()

        def client() -> None:
            while True:
                with guard:
                    asked = next(waiting, None)
                if asked is None:
                    return
                started = time.perf_counter()
                with self._one_at_a_time:
                    png(self.draw(asked).images[0])
                seconds.append(time.perf_counter() - started)

        in_threads([client] * clients)
        return seconds

    def gpu_peak(self) -> int | None:
        """Bytes of the GPU that were taken at most; None where it runs on the CPU or does not know."""
        return None


def in_threads(jobs: list[Callable[[], None]]) -> None:
    """Run jobs side by side to their end; raises what the first of them raised."""
    errors: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def png(image: Array) -> bytes:
    """(height, width, 3) uint8 -> PNG bytes, by Pillow, which every contestant has."""
    from PIL import Image  # noqa: PLC0415 - not needed to say what went wrong

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


def serve(contestant: Contestant) -> None:
    """Answer orders until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    orders = _orders(contestant)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            _say(answers, {"found": orders[order.pop("do")](**order)})
        except Exception as error:
            _say(answers, {"error": _one_line(error)})


def _orders(contestant: Contestant) -> dict[str, Callable[..., Any]]:
    def prepare(source: str, target: str, options: dict[str, Any]) -> None:
        contestant.prepare(Path(source), Path(target), options)

    def opened(model: str, options: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        contestant.open(Path(model), options)
        return {
            "seconds": time.perf_counter() - started,
            "versions": {name: found for name in contestant.packages if (found := _version(name))},
            "takes latents": contestant.takes_latents,
            "components": list(contestant.components),
        }

    def draw(keep: str | None = None, **asked: Any) -> dict[str, Any]:
        contestant.clock = Clock()
        wanted = _asked(asked)
        started = time.perf_counter()
        drawn = contestant.draw(wanted)
        decoded = time.perf_counter()
        for image in drawn.images:
            png(image)
        ended = time.perf_counter()
        if keep is not None:
            kept = {"images": drawn.images, "latents": drawn.latents, "steps": drawn.steps}
            np.savez(keep, **{name: array for name, array in kept.items() if array is not None})
        encoded = contestant.clock.encoded
        return {
            "prompt to PNG bytes": ended - started,
            "denoise+decode": None if encoded is None else decoded - encoded,
            "components": contestant.clock.components,
        }

    def component(name: str, feeds: str, calls: int, keep: str | None = None) -> list[float]:
        with np.load(feeds) as file:
            given = dict(file)
        seconds = []
        outputs: dict[str, Array] = {}
        for _ in range(calls):
            started = time.perf_counter()
            outputs = contestant.component(name, given)
            seconds.append(time.perf_counter() - started)
        if keep is not None:
            np.savez(keep, **outputs)
        return seconds

    def load(clients: int, asked: list[dict[str, Any]]) -> dict[str, Any]:
        started = time.perf_counter()
        latencies = contestant.load([_asked(one) for one in asked], clients)
        return {"seconds": time.perf_counter() - started, "latencies": latencies}

    def memory() -> dict[str, Any]:
        return {"rss": _peak_rss(), "gpu": contestant.gpu_peak()}

    return {
        "prepare": prepare,
        "open": opened,
        "draw": draw,
        "component": component,
        "load": load,
        "memory": memory,
    }


def _asked(words: dict[str, Any]) -> Asked:
    latents = words.pop("latents", None)
    return Asked(**words, latents=None if latents is None else np.load(latents))


def _peak_rss() -> int:
    """The greatest resident set of this process, in bytes, as Linux counts it: mapped files that were read too."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:400]


def _say(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


@contextmanager
def counted(clock: Clock, owner: Any, name: str, component: str) -> Iterator[None]:
    """Have the calls of a method counted as a component's while the block lasts."""
    plain = getattr(owner, name)
    setattr(owner, name, lambda *given, **named: clock.call(component, lambda: plain(*given, **named)))
    try:
        yield
    finally:
        delattr(owner, name)
