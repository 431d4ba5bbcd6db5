"""The contestants of `benchmarks/engines_gpu.py` that are still in the running, and what each has been asked."""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .contestants.remote import Refused, Remote
from .gpu_contestants import ENTRIES, Entry
from .gpu_libraries import environment

Left = Callable[[], float]  # seconds
_PICTURES = 3  # after one that does not count
_READY_SECONDS = 5  # that a contestant which is probably there gets at least to say so


class Field:
    """Whoever cannot go on leaves it, with one line of `figures` that says why."""

    def __init__(self, device: str, size: str, bundle: Path, logs: Path, figures: dict[str, Any]) -> None:
        self._device, self._size, self._bundle, self._logs = device, size, bundle, logs
        self._figures = figures
        self._starting: dict[str, Remote] = {}
        self._ready: dict[str, Remote] = {}

    def names(self) -> list[str]:
        """Of those that are ready."""
        return list(self._ready)

    def start(self, library: str) -> None:
        """Start all contestants of a library; they get ready by themselves."""
        for entry in self._entries(library):
            self._starting[entry.name] = self._started(entry.name)

    def refuse(self, library: str, reason: str) -> None:
        """Say of all contestants of a library why they were not tried."""
        for entry in self._entries(library):
            self._figures["not run"][entry.name] = reason

    def await_ready(self, left: Left) -> bool:
        """Wait for all that were started; whether any of them is ready. A compiled UNet is, once it has answered."""
        fresh = False
        for name, remote in self._starting.items():
            with self._leaving(name):
                opened = remote.receive(max(left(), _READY_SECONDS))
                self._ready[name] = remote
                self._figures["contestants"][name] = {"ready after, s": opened}
        for name in [name for name in self._starting if name in self._ready]:
            with self._leaving(name):  # alone: a first call may try kernels
                self._found(name)["first call, s"] = self._ready[name].ask(max(left(), _READY_SECONDS), do="warm")
                fresh = True
        self._starting.clear()
        return fresh

    def floor(self, left: Left) -> None:
        """Have PyTorch count what a call multiplies and, on a GPU, measure how fast it can."""
        for name in [entry.name for entry in self._entries("torch") if entry.name in self._ready][:1]:
            with self._leaving(name, "floor"):
                self._figures["floor"] = self._ready[name].ask(left(), do="floor")

    def time(self, rounds: int, calls: int, left: Left) -> None:
        """Let all take turns; medians over all rounds, in ms."""
        spent: dict[str, list[float]] = defaultdict(list)
        began = left()
        for done in range(rounds):
            if done and left() < 2 * (began - left()) / done:
                break
            for name in self.names():
                with self._leaving(name):
                    spent[name] += self._ready[name].ask(left(), do="time", calls=calls)
        floor = self._figures.get("floor", {}).get("ms")
        for name in self.names():
            median = 1e3 * statistics.median(spent[name])
            deciles = statistics.quantiles(spent[name], n=10)
            found = {"median, ms": round(median, 3), "10 to 90 %, ms": [round(1e3 * deciles[i], 3) for i in (0, -1)]}
            self._found(name).update(found | ({"over the floor": round(median / floor, 2)} if floor else {}))
            self._found(name)["calls"] = len(spent[name])

    def check(self, name: str, left: Left) -> None:
        """Ask for the errors of the recorded calls, and for NaN and infinity on extreme inputs."""
        if "relative L2" in self._found(name):
            return
        with self._leaving(name):
            errors = self._ready[name].ask(left(), do="errors")
            self._found(name).update({"relative L2": max(errors.values()), "relative L2 by call": errors})
            self._found(name)["NaN or Inf"] = self._ready[name].ask(left(), do="not finite")

    def draw(self, name: str, steps: int, left: Left) -> None:
        """Have whole pictures drawn. A compiled UNet is not asked: diffusers' call of it would compile it once more."""
        if "picture" in self._found(name) or self._entry(name).compiled:
            return
        with self._leaving(name, "picture"):
            self._ready[name].ask(left(), do="picture", steps=steps)
            drawn = [self._ready[name].ask(left(), do="picture", steps=steps) for _ in range(_PICTURES)]
            best = min(drawn, key=lambda picture: float(picture["seconds"]))
            self._found(name)["picture"] = {
                key: {part: round(s, 4) for part, s in value.items()} if isinstance(value, dict) else round(value, 4)
                for key, value in best.items()
            }

    def kernels(self, left: Left) -> None:
        """Where the time of a call goes on the GPU, as CUPTI counts it, in processes that are not timed or weighed."""
        timed = [name for name, found in self._figures["contestants"].items() if "median, ms" in found]
        for name in [name for name in timed if not self._entry(name).compiled] if self._device == "cuda" else []:
            remote = self._started(name)
            with self._leaving(name, "kernels"):
                remote.receive(left())
                self._found(name)["kernels"] = remote.ask(left(), do="kernels")
            remote.close()

    def close(self, used_megabytes: Callable[[], int | None] | None) -> None:
        """End all, one after another; with `used_megabytes` each one's GPU memory is what it gives back."""
        for name, remote in [*self._ready.items(), *self._starting.items()]:
            if used_megabytes is not None:
                self._weigh(name, remote, used_megabytes)
            elif name in self._ready and self._device == "cpu":
                with self._leaving(name, "memory"):
                    self._found(name)["peak RSS, GB"] = round(remote.ask(30, do="host memory") / 1e9, 2)
            remote.close()
        self._ready.clear()
        self._starting.clear()

    @contextmanager
    def _leaving(self, name: str, question: str | None = None) -> Iterator[None]:
        """Whoever refuses inside the block leaves; over a `question` of its own only one that was stopped for it."""
        try:
            yield
        except Refused as error:
            self._figures["not run"][name if question is None else f"{name}: {question}"] = str(error)
            remote = self._ready.get(name) or self._starting.get(name)
            if remote is not None and (question is None or remote.ended):
                self._ready.pop(name, None)
                remote.close()

    def _started(self, name: str) -> Remote:
        command = [sys.executable, "-m", "latentrt.benchmarks.gpu_worker"]
        remote = Remote(command, self._logs / f"{name}.log", environment())
        remote.send(contestant=name, device=self._device, size=self._size, bundle=str(self._bundle))
        return remote

    def _weigh(self, name: str, remote: Remote, used_megabytes: Callable[[], int | None]) -> None:
        before = used_megabytes()
        remote.close()
        time.sleep(0.5)  # the driver takes a moment
        after = used_megabytes()
        if before is not None and after is not None:
            self._found(name)["GPU memory, GB"] = round((before - after) * 2**20 / 1e9, 2)

    def _found(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._figures["contestants"].setdefault(name, {})
        return found

    def _entries(self, library: str) -> list[Entry]:
        return [entry for entry in ENTRIES[self._device] if entry.library == library]

    def _entry(self, name: str) -> Entry:
        [entry] = [entry for entry in ENTRIES[self._device] if entry.name == name]
        return entry
