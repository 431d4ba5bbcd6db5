"""One request of a pipeline, drawn step by step by the thread that asks for its steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .drawing import Result
from .loop import Step
from .request import Request

if TYPE_CHECKING:
    from .pipeline import Pipeline


class Stream:
    """One request on its way. Iterating yields its steps; `result()` goes on to the end and decodes."""

    def __init__(self, pipeline: Pipeline, request: Request) -> None:
        self._pipeline = pipeline
        self._steps: deque[Step] = deque()
        self._drawing = pipeline.start(request, self._steps.append)

    def __iter__(self) -> Iterator[Step]:
        """Yield each step as it is done; leaving the iteration early leaves the request in the loop."""
        while self._steps or not self._drawing.job.done:
            if self._steps:
                yield self._steps.popleft()
            else:
                self._pipeline.step()

    def result(self) -> Result:
        """Finish the request and decode it; an interruption on the way cancels it."""
        try:
            for _ in self:
                pass
        except BaseException:
            self.cancel()
            raise
        return self._pipeline.finish(self._drawing)

    def cancel(self) -> None:
        """Take the request out of the loop."""
        self._drawing.job.cancel()
