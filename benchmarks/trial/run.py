"""The trial itself: contestants take turns, and everything they give is in the journal at once.

Each turn is a process of its own. Two processes of the same code differ, by where their memory lies and what they were
started beside: by two percent, say, for as long as they live. So a turn is a whole repetition, and the spread of turns
tells how sure a figure is, which no number of pictures of one process could (T. Kalibera and R. Jones, "Rigorous
benchmarking in reasonable time", 2013). Only one is open at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from latentrt.benchmarks.contestants.remote import Refused

from .contender import Contender
from .inputs import Inputs
from .journal import Failed, Journal, Ready
from .plan import COLD_START, GOLDEN, NETWORKS, PICTURE, Task, tasks, turns
from .progress import Progress
from .recorded import Recorded
from .seat import Seat
from .yardstick import Yardstick


class Trial:
    """Contestants, and what they still have to do. A process that is open ends when its block does."""

    def __init__(
        self,
        contenders: Sequence[Contender],
        inputs: Inputs,
        journal: Journal,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._contenders = {contender.name: contender for contender in contenders}
        self._inputs, self._journal, self._folder, self._progress = inputs, journal, folder, progress
        self._settings = inputs.settings
        self._yardstick = Yardstick()
        self._seats: dict[str, Seat] = {}

    def run(self, reference: Callable[[], Recorded | None]) -> None:
        """Measure what the journal lacks; then draw what the `reference` is of, where that is a recorded one."""
        self._progress.expect(self._left())
        for name in self._contenders:
            self._equip(name)
        for index, name in turns(self._settings.contestants, self._settings.cold_starts):
            self._cold_start(name, index)
        for number, name in turns(self._settings.contestants, self._settings.rounds):
            self._turn(name, number)
        recorded = reference()
        if recorded is not None:
            for name in self._settings.contestants:
                with self._failing(name):
                    self._draw_recorded(name, recorded)

    @property
    def standing(self) -> frozenset[str]:
        """Those that have not failed so far."""
        return frozenset(self._seats)

    def further(self, number: int) -> None:
        """One more turn of each, beyond those that were asked for: of pictures alone."""
        for name in self._settings.contestants:
            self._turn(name, number)

    def _equip(self, name: str) -> None:
        contender = self._contenders[name]
        with self._failing(name):
            equipped = contender.equip(lambda words: self._progress.doing(f"{name}: {words}"))
            ready = Ready(contestant=name, title=contender.title, environment=equipped.environment)
            if ready not in self._journal.lines:
                self._journal.add(ready)
            seat = Seat(contender, equipped, self._inputs, self._journal, self._yardstick, self._folder)
            self._seats[name] = seat

    def _cold_start(self, name: str, index: int) -> None:
        if name not in self._seats or self._journal.has(name, COLD_START, 0, index):
            return
        self._progress.doing(f"{name}: cold start {index + 1} of {self._settings.cold_starts}")
        with self._failing(name):
            self._seats[name].cold_start(index)
            self._progress.done()

    def _turn(self, name: str, number: int) -> None:
        seat = self._seats.get(name)
        if seat is None or not self._missing(name, number):
            return
        where = f"turn {number + 1} of {self._settings.rounds}, {name}"
        with self._failing(name):
            self._progress.doing(f"{where}: opening")
            seat.open(number)
            self._progress.doing(f"{where}: warming up")
            seat.warm_up()
            for task in self._missing(name, number):
                self._progress.doing(f"{where}: {_told(task, self._settings.pictures)}")
                seat.do(number, task)
                self._progress.done()
            seat.close()

    def _draw_recorded(self, name: str, recorded: Recorded) -> None:
        seat = self._seats.get(name)
        pictures = [i for i in range(len(recorded.asked)) if not self._journal.has(name, GOLDEN, 0, i)]
        calls = [part for part in recorded.feeds if not self._journal.has(name, f"{GOLDEN} {part}")]
        if seat is None or not (pictures or calls):
            return
        self._progress.doing(f"{name}: what PyTorch's answers are recorded of")
        seat.open(self._settings.rounds)
        for index in pictures:
            seat.golden(index, recorded.asked[index])
        for part in calls:
            if part in seat.components:
                seat.golden_call(part, recorded.feeds[part])
        seat.close()

    def _missing(self, name: str, number: int) -> list[Task]:
        seat = self._seats.get(name)
        components = seat.components if seat is not None and seat.components else NETWORKS
        planned = tasks(self._settings, components, number)
        if number >= self._settings.rounds:
            planned = [task for task in planned if task.what == PICTURE]
        return [task for task in planned if not self._journal.has(name, task.what, number, task.index)]

    def _left(self) -> int:
        counted = sum(
            len(self._missing(name, n)) for n, name in turns(self._settings.contestants, self._settings.rounds)
        )
        starts = turns(self._settings.contestants, self._settings.cold_starts)
        return counted + sum(not self._journal.has(name, COLD_START, 0, index) for index, name in starts)

    @contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        """A contestant that is refused something is out; what it gave stays, and the others go on."""
        try:
            yield
        except Refused as refused:
            self._progress.say(f"{name} failed: {refused}")
            failed = Failed(contestant=name, title=self._contenders[name].title, reason=str(refused))
            self._journal.add(failed)
            if (seat := self._seats.pop(name, None)) is not None:
                seat.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what is open; after an error or Ctrl-C it is not waited for."""
        for seat in self._seats.values():
            seat.close(10.0 if error is None else 0.0)


def _told(task: Task, pictures: int) -> str:
    return f"{task.what} {task.index + 1} of {pictures}" if task.what == PICTURE else task.what
