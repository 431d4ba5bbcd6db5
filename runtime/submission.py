"""A request that was submitted from any thread: a future, with its progress."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from .drawing import Decoded, Drawing, Result
from .loop import Step
from .request import Plan, Request


class Submission(Future[Result]):
    """A `concurrent.futures.Future` of a `Result`; `await` it, or `asyncio.wrap_future` it, in an event loop.

    `cancel()` takes effect at once for whoever waits, and frees the request's rows before the next step, or its place
    among what is to be encoded or decoded; it fails only when the picture is done. `steps_done` of `steps_total` may be
    read at any time.

    Attributes:
        warnings: what of the prompt the model does not see, a line each; known once it runs.
    """

    def __init__(self, request: Request, planned: Plan, on_step: Callable[[Step], None] | None = None) -> None:
        super().__init__()
        self.request = request
        self.steps_done = 0
        self.steps_total = planned.schedule.steps
        self.warnings: tuple[str, ...] = ()
        self.drawing: Drawing | None = None  # the worker's, once the request is in the loop
        self.decoded: list[Decoded | Exception] = []  # the worker's: its pictures so far
        self._on_step = on_step

    def running(self) -> bool:
        """Whether steps are being drawn, or the picture is being decoded."""
        return self.drawing is not None and not self.done()

    def joined(self, drawing: Drawing) -> None:
        """Note that the request is in the loop; in the worker's thread."""
        self.warnings = drawing.texts.warnings
        self.drawing = drawing

    def stepped(self, step: Step) -> None:
        """Note a finished step, and tell the listener; in the worker's thread."""
        self.steps_done = step.index + 1
        if self._on_step is not None:
            self._on_step(step)

    def __await__(self) -> Generator[Any, None, Result]:
        import asyncio  # noqa: PLC0415 - a fifth of all imports, for those who have an event loop alone

        return asyncio.wrap_future(self).__await__()
