"""What a contestant is: asked for pictures, it gives them, and says where the time went.

This file runs in every contestant's environment, as `protocol.py` does: Python's own library and numpy, nothing else.
"""

from __future__ import annotations

import io
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

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
