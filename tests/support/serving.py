"""A real server on a real port, in a thread beside the test; and engines that wait, spoil or die when told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray

from latentrt import Pipeline
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import EngineError
from latentrt.engines.fake_backend import FakeEngine
from latentrt.engines.tensor import Feeds
from latentrt.runtime.serve.server import Server, listen
from latentrt.runtime.serve.service import Service
from latentrt.runtime.serve.settings import ServeSettings

GENERATIONS = "/v1/images/generations"
PATIENCE = 60  # seconds: a test that waits longer has failed


class Running:
    """A server under way: where it is, and what is inside it."""

    def __init__(self, service: Service, server: Server, port: int) -> None:
        self.service, self.server, self.port = service, server, port
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx2.Client(base_url=self.url, timeout=PATIENCE)

    def draw(self, **fields: Any) -> httpx2.Response:
        """Ask for a picture, in OpenAI's words."""
        return self.client.post(GENERATIONS, json={"prompt": "a star", "num_inference_steps": 3} | fields)

    def metric(self, name: str, **labels: str) -> float:
        """A figure of the server's, 0 where it was never counted."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


def until(holds: Callable[[], object], what: str = "it") -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"{what} never came to be"
        time.sleep(0.005)


@contextmanager
def serving(bundle: Path, open_pipeline: Callable[[], Pipeline], **settings: Any) -> Iterator[Running]:
    """Serve a bundle as `latentrt serve` does; what is under way when the block ends is called off."""
    service = Service(Bundle.open(bundle), ServeSettings(**settings), open_pipeline)
    server = Server(service)
    with listen("127.0.0.1", 0) as listener:
        running = Running(service, server, listener.getsockname()[1])
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: service.ready or service.failure or not thread.is_alive(), "readiness")
            yield running
        finally:
            running.client.close()
            server.end()
            thread.join(PATIENCE)
            assert not thread.is_alive()


class Unet:
    """Stands in the way of a pipeline's UNet: it waits while the gate is shut, and spoils or refuses when told to.

    `rows` are those of each call, which takes `pause` seconds more.
    """

    def __init__(self) -> None:
        self.gate, self.reached = threading.Event(), threading.Event()
        self.gate.set()
        self.single = threading.Semaphore(0)
        self.spoilt, self.dead, self.pause = False, False, 0.0
        self.rows: list[int] = []
        self.opened = 0

    def opening(self, bundle: Path) -> Callable[[], Pipeline]:
        """Opens the bundle with the fake engines, this one in the UNet's place."""

        def opened() -> Pipeline:
            self.opened += 1
            pipeline = Pipeline.open(bundle, engine="fake")
            unet = pipeline.engines["unet"]
            assert isinstance(unet, FakeEngine)
            run = unet.run
            unet.run = lambda feeds: self._run(run, feeds)  # type: ignore[method-assign]
            return pipeline

        return opened

    def _run(self, run: Callable[[Feeds], dict[str, NDArray[Any]]], feeds: Feeds) -> dict[str, NDArray[Any]]:
        self.reached.set()
        until(lambda: self.gate.is_set() or self.single.acquire(blocking=False), "an open gate")
        time.sleep(self.pause)
        if self.dead:
            raise EngineError("the device was lost")
        self.rows.append(len(feeds["sample"]))
        answer = run(feeds)
        return {name: np.full_like(array, np.nan) for name, array in answer.items()} if self.spoilt else answer

    def step(self) -> None:
        """Let one call through while the gate is shut."""
        self.single.release()

    def shut(self) -> None:
        """Stop at the next call."""
        self.reached.clear()
        self.gate.clear()
