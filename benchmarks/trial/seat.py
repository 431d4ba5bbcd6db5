"""A contestant in a trial: its process, what it is asked, and what it answers, written down."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from latentrt.benchmarks.contestants.remote import Refused

from .conditions import Watch, thread_seconds
from .contender import Contender, Equipped, Process
from .inputs import Inputs
from .journal import Declined, Journal, Measured
from .plan import COLD_START, GOLDEN, KEPT, MEMORY, OPENING, PICTURE, REQUESTS, WARMING_CALLS, Task
from .yardstick import Yardstick

SETTLING = 0.02  # seconds after a picture: an engine's threads spin on for a while, in case there is more to do


class Seat:
    """One contestant that is ready, and its process while that is open."""

    def __init__(
        self,
        contender: Contender,
        equipped: Equipped,
        inputs: Inputs,
        journal: Journal,
        yardstick: Yardstick,
        folder: Path,
    ) -> None:
        self.name = contender.name
        self.kept = folder / "kept" / contender.file_name
        self.components: list[str] = []
        self._equipped, self._inputs, self._journal, self._yardstick = equipped, inputs, journal, yardstick
        self._log = folder / "logs" / f"{contender.file_name}.log"
        self._within = inputs.settings.time_limit
        self._process: Process | None = None
        self._drawn_at_once: set[int] = set()
        self._drawn_in = 0.0  # seconds that the last picture took
        self._watch = Watch()
        for place in (self.kept, self._log.parent):
            place.mkdir(parents=True, exist_ok=True)

    def open(self, turn: int) -> None:
        """Start a process and open the model; raises Refused."""
        self._process = self._equipped.start(self._log)
        found = self._ask(do="open", model=str(self._equipped.model), options=self._equipped.options)
        self._drawn_at_once = set()
        self.components = list(found["components"])
        if not self._journal.has(self.name, OPENING, turn):
            self._note(OPENING, turn, 0, found)

    def close(self, grace: float = 10.0) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.close(grace)
            self._process = None

    def warm_up(self) -> None:
        """One picture that does not count."""
        self._ask(do="draw", **self._inputs.picture(0))

    def cold_start(self, index: int) -> None:
        """A fresh process to its first picture, and what memory that took."""
        self._begin()
        process = self._process = self._equipped.start(self._log)
        opened = self._ask(do="open", model=str(self._equipped.model), options=self._equipped.options)
        self._ask(do="draw", **self._inputs.picture(0))
        seconds = time.perf_counter() - process.started
        memory = self._ask(do="memory")
        self._note(COLD_START, 0, index, {"seconds": seconds, "opened": opened, "memory": memory})
        self.close()

    def do(self, turn: int, task: Task) -> None:
        """Measure one thing and write it down; raises Refused where the contestant fails in it."""
        self._begin()
        kind = task.what.split(maxsplit=1)[0]
        try:
            found = self._orders[kind](self, turn, task)
        except Refused as refused:
            if kind not in {"batch", "clients", "component"} or self._process is None or self._process.ended:
                raise
            self._journal.add(Declined(contestant=self.name, what=task.what, reason=str(refused)))
        else:
            self._note(task.what, turn, task.index, found)

    def golden(self, index: int, asked: dict[str, Any]) -> None:
        """Draw what the bundle has PyTorch's own picture of, and keep it."""
        self._begin()
        self._ask(do="draw", keep=str(self.kept / f"{GOLDEN}-{index}.npz"), **asked)
        self._note(GOLDEN, 0, index, None)

    def golden_call(self, component: str, feeds: Path) -> None:
        """Call a network with what PyTorch's recorded answer is of, and keep what it gives."""
        self._begin()
        keep = str(self.kept / f"{GOLDEN}-{component}.npz")
        try:
            self._ask(do="component", name=component, feeds=str(feeds), calls=1, keep=keep)
        except Refused as refused:
            if self._process is None or self._process.ended:
                raise
            self._journal.add(Declined(contestant=self.name, what=f"{GOLDEN} {component}", reason=str(refused)))
        else:
            self._note(f"{GOLDEN} {component}", 0, 0, None)

    def _keep(self, _turn: int, task: Task) -> None:
        keep = str(self.kept / f"picture-{task.index}.npz")
        self._ask(do="draw", keep=keep, **self._inputs.picture(task.index, steps=True))

    def _picture(self, turn: int, task: Task) -> Any:
        """One that counts, between two looks at what the machine can do."""
        assert self._process is not None
        number = turn * self._inputs.settings.pictures + task.index
        before = self._yardstick.seconds(self._drawn_in / 2)
        started, taken = time.perf_counter(), thread_seconds(self._process.pid)
        found = self._ask(do="draw", **self._inputs.picture(number))
        taken, self._drawn_in = thread_seconds(self._process.pid) - taken, time.perf_counter() - started
        time.sleep(SETTLING)
        return {**found, "processor": taken, "yardstick": [before, self._yardstick.seconds(self._drawn_in / 2)]}

    def _component(self, turn: int, task: Task) -> Any:
        calls = WARMING_CALLS + self._inputs.settings.calls
        order = {"name": task.subject, "feeds": str(self._inputs.feeds[task.subject]), "calls": calls}
        keep = {"keep": str(self.kept / f"{task.subject}.npz")} if turn == 0 else {}
        return self._ask(do="component", **order, **keep)[WARMING_CALLS:]

    def _batch(self, _turn: int, task: Task) -> Any:
        asked = self._inputs.pictures(range(task.count))
        if task.count not in self._drawn_at_once:  # the first may compile, or pick kernels
            self._ask(do="draw", **asked)
            self._drawn_at_once.add(task.count)
        return self._ask(do="draw", **asked)

    def _clients(self, _turn: int, task: Task) -> Any:
        asked = [self._inputs.picture(index) for index in range(REQUESTS * task.count)]
        return self._ask(do="load", clients=task.count, asked=asked)

    def _memory(self, _turn: int, _task: Task) -> Any:
        return self._ask(do="memory")

    _orders = {  # noqa: RUF012 - by the first word of what the journal calls it
        KEPT: _keep,
        PICTURE: _picture,
        "component": _component,
        "batch": _batch,
        "clients": _clients,
        MEMORY: _memory,
    }

    def _ask(self, **order: Any) -> Any:
        assert self._process is not None
        return self._process.ask(self._within, **order)

    def _begin(self) -> None:
        self._watch.start(self._pids)

    def _note(self, what: str, turn: int, index: int, found: Any) -> None:
        stretch = None if what == OPENING else self._watch.lap(self._pids)
        line = Measured(contestant=self.name, what=what, turn=turn, index=index, found=found, stretch=stretch)
        self._journal.add(line)

    @property
    def _pids(self) -> list[int]:
        return [] if self._process is None else [self._process.pid]
