"""The library's phases as one share of a build, and Ctrl-C during it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..backend import Report


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Progress:
    """Which phases run, one inside another, and how far they are; `stopped` is what interrupted them.

    The library calls it from several threads of its own, and must never see an exception.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._phases: dict[str, _Phase] = {}
        self._share = 0.0
        self._lock = threading.Lock()
        self.stopped: BaseException | None = None

    def stop(self, error: BaseException) -> None:
        """Have the next step be the last, because of `error`. A signal handler may call this: it waits for no lock."""
        self.stopped = self.stopped or error

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins, inside its parent's next step."""
        with self._guarded():
            self._phases[phase] = _Phase(parent, max(1, steps))
            self._tell(phase)

    def step(self, phase: str, index: int) -> bool:
        """A step is done; returns whether to go on."""
        with self._guarded():
            if phase in self._phases:
                self._phases[phase].done = index + 1
                self._tell(phase)
        return self.stopped is None

    def finish(self, phase: str) -> None:
        """A phase ends, maybe before its last step."""
        with self._guarded():
            self._phases.pop(phase, None)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """One thread at a time; what it raises stops the build."""
        try:
            with self._lock:
                yield
        except BaseException as error:
            self.stop(error)

    def _tell(self, phase: str) -> None:
        roots = (name for name, found in self._phases.items() if found.parent not in self._phases)
        self._share = max(self._share, min(1.0, max(map(self._share_of, roots), default=0.0)))
        self._report(phase[:1].lower() + phase[1:], self._share)

    def _share_of(self, name: str) -> float:
        phase = self._phases[name]
        inside = (self._share_of(child) for child, found in self._phases.items() if found.parent == name)
        return min(1.0, (phase.done + max(inside, default=0.0)) / phase.steps)


def make_monitor(trt: Any, progress: Progress) -> Any:
    """The library's own kind of monitor, which tells `progress`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
