"""A run, recorded once and replayed by one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import EngineError
from .cuda import call, cudart
from .memory import Stream

_MODE = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal


class CudaGraph:
    """What one call put on a stream. It holds addresses: it is worthless once memory or shapes change."""

    def __init__(self, stream: Stream, enqueue: Callable[[], bool]) -> None:
        """Record what `enqueue` puts on the stream; nothing of it runs.

        Other threads may allocate and synchronise meanwhile: only this one is held to what can be recorded.

        Raises:
            EngineError: it cannot be recorded.
        """
        call(cudart.cudaStreamBeginCapture, stream.handle, _MODE)
        try:
            done = enqueue()
        finally:  # the stream would stay in capture mode otherwise
            code, graph = cudart.cudaStreamEndCapture(stream.handle)
        if code != cudart.cudaError_t.cudaSuccess:
            raise EngineError("this engine's run cannot be recorded as a CUDA graph")
        try:
            if not done:
                raise EngineError("the library could not start the run that was to be recorded")
            self._replay: Any = call(cudart.cudaGraphInstantiate, graph, 0)
        finally:
            call(cudart.cudaGraphDestroy, graph)

    def launch(self, stream: Stream) -> None:
        """Put the recorded run on the stream."""
        call(cudart.cudaGraphLaunch, self._replay, stream.handle)

    def close(self) -> None:
        """Give it back; the stream must be done with it."""
        if self._replay is not None:
            replay, self._replay = self._replay, None
            call(cudart.cudaGraphExecDestroy, replay)
