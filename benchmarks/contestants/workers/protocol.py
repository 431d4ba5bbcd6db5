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
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np

Array = Any  # np.ndarray; this file runs where numpy has no generic types


@dataclass(frozen=True)
class Asked:
    """Pictures to draw at once: of prompts that share everything but text and noise.

    Attributes:
        prompts: one for each picture.
        seeds: of the noise, where a contestant draws its own.
        latents: (n, 4, height / 8, width / 8) float32 unit noise to start from; None leaves it to the seeds: the noise
            is then what torch's CPU generator draws from each, or the contestant's own.
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
        steps: (num_inference_steps, n, 4, ...) float32, after each step, as diffusers' scheduler of this sampler gives
            them back: unit-variance for ddim and dpmpp_2m, variance-exploding for euler. The last is `latents`. None
            where it does not give them.
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
    torch_noise = True  # whether the noise that it draws from a seed is that of torch's CPU generator
    components: tuple[str, ...] = ()  # of text_encoder, unet, vae_decoder: those that `component` calls

    def __init__(self) -> None:
        self.clock = Clock()
        self.notes: list[str] = []  # what a reader of its figures should know, a line each

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

        One picture at a time, first come, first served, unless a contestant can do better. They are drawn in the
        calling thread, as all others are: libraries keep threads for each one that calls them.
        """
        line: Queue[tuple[Asked, Future[Array]] | None] = Queue()

        def draw(asked: Asked) -> None:
            drawn: Future[Array] = Future()
            line.put((asked, drawn))
            png(drawn.result())

        with ThreadPoolExecutor(1) as pool:
            seconds = pool.submit(by_clients, draw, ask, clients)
            seconds.add_done_callback(lambda _: line.put(None))
            while (first := line.get()) is not None:
                asked, drawn = first
                try:
                    drawn.set_result(self.draw(asked).images[0])
                except Exception as error:
                    drawn.set_exception(error)
        return seconds.result()

    def files(self, model: Path) -> int:
        """Bytes on disk of the model that was opened."""
        files = [model] if model.is_file() else model.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())

    def gpu_peak(self) -> int | None:
        """Bytes of the GPU that were taken at most; None where it runs on the CPU or does not know."""
        return None


def by_clients(draw: Callable[[Asked], None], ask: list[Asked], clients: int) -> list[float]:
    """Let so many threads take what is asked in turn; seconds of each. Raises what the first of them raised."""
    waiting, guard = iter(ask), threading.Lock()
    seconds: list[float] = []

    def client() -> None:
        while True:
            with guard:
                asked = next(waiting, None)
            if asked is None:
                return
            started = time.perf_counter()
            draw(asked)
            seconds.append(time.perf_counter() - started)

    with ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(client) for _ in range(clients)]:
            future.result()
    return seconds


def png(image: Array) -> bytes:
    """(height, width, 3) uint8 -> PNG bytes, by Pillow, which every contestant has."""
    from PIL import Image  # noqa: PLC0415 - not needed to say what went wrong

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


def serve(contestant: Contestant) -> None:
    """Answer a trial's orders until the input ends."""
    orders = _orders(contestant)

    def found(order: dict[str, Any]) -> Any:
        name = order.pop("do", None)
        if name not in orders:
            raise ValueError(f"there is no order {name!r}; known: {', '.join(orders)}")
        return orders[name](**order)

    answer_orders(found)


def answer_orders(found: Callable[[dict[str, Any]], Any]) -> None:
    """Answer each order on standard input with what is `found` for it, or with the error in one line."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    for line in sys.stdin:
        try:
            answer = {"found": found(json.loads(line))}
        except Exception as error:  # whatever a library raises is what the results say
            answer = {"error": _one_line(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _end_with(parent: int) -> None:
    """End when whoever gives orders is no more, in the middle of one too."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


def _orders(contestant: Contestant) -> dict[str, Callable[..., Any]]:
    def prepare(source: str, target: str, options: dict[str, Any]) -> None:
        contestant.prepare(Path(source), Path(target), options)

    def opened(model: str, options: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        contestant.open(Path(model), options)
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "versions": {name: found for name in contestant.packages if (found := _version(name))},
            "takes latents": contestant.takes_latents,
            "components": list(contestant.components),
            "torch noise": contestant.torch_noise,
            "notes": contestant.notes,
            "files": contestant.files(Path(model)),
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
    """All of it, as some libraries say where before they say what."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


@contextmanager
def counted(clock: Clock, owner: Any, name: str, component: str) -> Iterator[None]:
    """Have the calls of a method counted as a component's while the block lasts."""
    own = name in vars(owner)  # else its class's
    plain = getattr(owner, name)
    setattr(owner, name, lambda *given, **named: clock.call(component, lambda: plain(*given, **named)))
    try:
        yield
    finally:
        if own:
            setattr(owner, name, plain)
        else:
            delattr(owner, name)
