"""A plan that runs for one profile: its own execution context, so that a recorded run stays valid beside others."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..errors import EngineError
from .arena import Memory
from .cuda_graph import CudaGraph
from .memory import Stream

Shapes = Mapping[str, tuple[int, ...]]


class ProfileContext:
    """One execution context, set to one profile; its activation memory is lent to it for each run.

    Args:
        context: of the library, with memory that its user manages.
        index: of the profile.
        addresses: of every input and output, by name.
        recorded: whether to replay runs as a CUDA graph, where shapes never change.
    """

    def __init__(
        self, context: Any, index: int, addresses: Mapping[str, int], stream: Stream, *, recorded: bool
    ) -> None:
        self._context, self._recorded = context, recorded
        if not context.set_optimization_profile_async(index, stream.handle):
            raise EngineError(f"the plan has no profile {index}")
        stream.synchronize()
        for name, address in addresses.items():
            context.set_tensor_address(name, address)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._lent: tuple[int, int] | None = None
        self._runs = 0
        self._graph: CudaGraph | None = None

    def enqueue(self, shapes: Shapes, memory: Memory, stream: Stream) -> None:
        """Put a run on the stream, for inputs of these shapes that are on the GPU already.

        Raises:
            EngineError: the library refuses.
        """
        self._bind(shapes, memory)
        if self._graph is None and self._recorded and self._runs:  # the first run may still set things up
            with suppress(EngineError):
                self._graph = CudaGraph(stream, lambda: bool(self._context.execute_async_v3(stream.handle)))
            self._recorded = self._graph is not None
        if self._graph is not None:
            self._graph.launch(stream)
        elif not self._context.execute_async_v3(stream.handle):
            raise EngineError("the library could not start the run")
        self._runs += 1

    def _bind(self, shapes: Shapes, memory: Memory) -> None:
        lent = (memory.address, memory.size)
        if self._shapes == shapes and self._lent == lent:
            return
        self._forget()
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise EngineError(f"the plan does not take {name} of {shape}")
        self._context.set_device_memory(*lent)
        self._shapes, self._lent = dict(shapes), lent

    def _forget(self) -> None:
        """What was recorded holds the old addresses."""
        self._runs = 0
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def close(self) -> None:
        """Give all back; the stream must be done."""
        self._forget()
        self._context = None
