"""A plan that runs: its buffers, a context for each profile, and what stays on the GPU between runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import EngineError
from ..key import EngineKey
from ..options import BuildOptions
from ..profile import Profile
from ..profiled import ProfiledEngine
from ..tensor import Feeds, TensorSpec, check_feeds, resolve_shape
from . import cuda
from .arena import Arena
from .context import ProfileContext
from .family import Family
from .interruption import held_back
from .log import make_log
from .memory import InputBuffer, OutputBuffer, Stream
from .plan import PLAN, load_plan
from .refit import check_refit, check_refitted, refit
from .sealed import read_sealed, write_sealed


@dataclass(frozen=True)
class GpuPlace:
    """Where an engine runs, and what it keeps.

    Attributes:
        device: the GPU by its number.
        arena: its activation memory, which other engines on that GPU may share.
        resident: bytes of weights that stay on it at most; None for any.
        kernels: the file that keeps compiled kernels; None keeps none.
    """

    device: int
    arena: Arena
    resident: int | None = None
    kernels: Path | None = None


class TensorRtEngine(ProfiledEngine):
    """One component on one GPU. Inputs that do not change stay there; activations share their memory with the other
    engines of its pipeline.
    """

    def __init__(
        self,
        family: Family,
        bundle: Bundle,
        name: str,
        key: EngineKey,
        profiles: Sequence[Profile],
        folder: Path,
        options: BuildOptions,
        place: GpuPlace,
    ) -> None:
        super().__init__(bundle, name, key, profiles)
        self._family, self._options, self._device = family, options, place.device
        self._kernels = place.kernels
        self._log = make_log(family.module)
        with ExitStack() as stack:
            cuda.use(place.device)
            self._runtime, self._engine = load_plan(family, folder / PLAN, self._log, name)
            stack.callback(self._release)
            if options.weight_streaming:  # must be set before there is a context
                self._engine.weight_streaming_budget_v2 = streaming_budget(self._engine, place.resident)
            self._stream = _closing(stack, Stream())
            self._inputs = {spec.name: _closing(stack, InputBuffer(self._most(spec))) for spec in self.inputs}
            self._outputs = {spec.name: _closing(stack, OutputBuffer(self._most(spec))) for spec in self.outputs}
            self._arena = place.arena
            self._arena.join()
            stack.callback(self._arena.leave)
            self._cache: Any = None
            self._runtime_config: Any = None
            if family.ahead_of_time:
                self._prepare_kernels()
                stack.callback(self._keep_kernels)
            self._contexts: dict[int, ProfileContext] = {}
            stack.callback(self._close_contexts)
            self._resources = stack.pop_all()

    def _run_profile(self, index: int, feeds: Feeds) -> dict[str, NDArray[Any]]:
        bound = check_feeds(self.name, self.inputs, feeds)
        shapes = {name: tuple(array.shape) for name, array in feeds.items()}
        answers = {spec.name: resolve_shape(spec.shape, bound) for spec in self.outputs}
        cuda.use(self._device)  # the thread may be another than the one that opened the engine
        context = self._context(index)
        try:
            with self._arena.held(self._engine.device_memory_size_v2) as memory:
                for name, array in feeds.items():
                    self._inputs[name].upload(array, self._stream)
                context.enqueue(shapes, memory, self._stream)
                for spec in self.outputs:
                    self._outputs[spec.name].download(_bytes(spec, answers[spec.name]), self._stream)
                self._stream.synchronize()
        except EngineError as error:
            raise EngineError(f"the {self._family.name} engine of {self.name} failed: {error}") from error
        return {spec.name: self._outputs[spec.name].array(answers[spec.name], spec.dtype) for spec in self.outputs}

    def refit(self, bundle: Bundle) -> None:
        """Exchange the weights for those of another bundle's component with the same graph; takes seconds, not minutes.

        The engine is then held against what PyTorch recorded in that bundle. One that fails is closed.

        Raises:
            EngineError: the engine was not built with --refittable, the graph differs, or a weight does not fit.
            CheckFailedError: with the new weights its answers are not PyTorch's.
        """
        key = check_refit(self.key, self._options, bundle)
        cuda.use(self._device)
        opset = self._family.opset(self._options.opset)
        try:
            self._close_contexts()  # a recorded run may hold weights
            refit(self._family, self._engine, self._log, bundle, self.key, self.profiles, opset)
            check_refitted(self, bundle, self._options)
        except BaseException:  # some weights may be new, and others old
            self.close()
            raise
        self.key = key

    def _context(self, index: int) -> ProfileContext:
        if index not in self._contexts:
            static = self.profiles[index].static and not self._options.weight_streaming  # streamed weights move
            buffers = (*self._inputs.items(), *self._outputs.items())
            addresses = {name: buffer.device.address for name, buffer in buffers}
            with held_back():
                context = self._engine.create_execution_context(self._how_to_run())
            if context is None:
                raise EngineError(f"the {self._family.name} engine of {self.name} has no memory left for a context")
            self._contexts[index] = ProfileContext(
                context, index, addresses, self._stream, recorded=static and not self._family.ahead_of_time
            )
        return self._contexts[index]

    def _how_to_run(self) -> Any:
        managed = self._family.module.ExecutionContextAllocationStrategy.USER_MANAGED
        return managed if self._runtime_config is None else self._runtime_config

    def _prepare_kernels(self) -> None:
        """TensorRT for RTX compiles kernels when it first runs: keep them, and let it record its own CUDA graphs."""
        trt, config = self._family.module, self._engine.create_runtime_config()
        self._cache = config.create_runtime_cache()
        self._kept = None if self._kernels is None else read_sealed(self._kernels)
        if self._kept is not None:
            self._cache.deserialize(self._kept)  # False where another GPU or version wrote them: then it stays empty
        config.set_runtime_cache(self._cache)
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._runtime_config = config

    def _keep_kernels(self) -> None:
        if self._kernels is None:
            return
        content = bytes(memoryview(self._cache.serialize()))
        if content != self._kept:
            write_sealed(self._kernels, content)

    def _most(self, spec: TensorSpec) -> int:
        return max(_bytes(spec, profile.shapes(spec)[2]) for profile in self.profiles)

    def _close_contexts(self) -> None:
        with ExitStack() as stack:
            for context in self._contexts.values():
                stack.callback(context.close)
            self._contexts = {}

    def _release(self) -> None:
        self._runtime_config = self._cache = self._engine = self._runtime = None

    def close(self) -> None:
        """As `Engine.close`; compiled kernels are kept."""
        if not self._closed:
            super().close()
            with self._resources:  # given back even where the GPU is gone, all of them
                cuda.use(self._device)


def _closing(stack: ExitStack, resource: Any) -> Any:
    stack.callback(resource.close)
    return resource


def _bytes(spec: TensorSpec, shape: Sequence[int]) -> int:
    return int(np.prod(shape)) * np.dtype(spec.dtype).itemsize


def streaming_budget(engine: Any, resident: int | None) -> int:
    """Bytes of an engine's streamable weights that stay on the GPU: `resident` at most, else what TensorRT proposes."""
    if resident is None:
        return int(engine.get_weight_streaming_automatic_budget())
    return min(resident, int(engine.streamable_weights_size))
