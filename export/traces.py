"""The traces of an export's networks: pure Python on one core, so processes beside this one trace the large ones."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from queue import SimpleQueue

from latentrt.engines.errors import LatentrtError

from .trace import named_tensors, trace
from .wrappers import Network

Trace = Callable[[], bytes]  # waits until it is there

_LARGE = 300_000_000  # weights in all; fewer are traced in less time than a process takes to import torch
_COMMAND = "from latentrt.export.traces import serve; serve()"


@contextmanager
def traces(outlines: Sequence[Network]) -> Iterator[Mapping[str, Trace]]:
    """Yield the trace of each network by its name; they are begun in this order, and one architecture's are shared.

    A trace raises LatentrtError where the process that made it died. All processes are gone when the block ends.
    """
    keys = {outline.name: _architecture(outline) for outline in outlines}
    distinct = {keys[outline.name]: outline for outline in reversed(outlines)}
    ordered = {key: distinct[key] for key in keys.values()}
    weights = sum(tensor.numel() for outline in outlines for _, tensor in named_tensors(outline))
    with _elsewhere(ordered) if weights >= _LARGE else _here(ordered) as made:
        yield {name: made[key] for name, key in keys.items()}


def _architecture(outline: Network) -> str:
    """A hash of all that a trace depends on."""
    return hashlib.sha256(pickle.dumps((outline.module, outline.inputs, outline.outputs))).hexdigest()


@contextmanager
def _here(outlines: Mapping[str, Network]) -> Iterator[Mapping[str, Trace]]:
    yield {key: cache(partial(trace, outline)) for key, outline in outlines.items()}


@contextmanager
def _elsewhere(outlines: Mapping[str, Network]) -> Iterator[Mapping[str, Trace]]:
    # half of the cores: the recording has the others
    tracers = [_Tracer() for _ in range(max(1, min(len(outlines), (os.cpu_count() or 1) // 2)))]
    idle: SimpleQueue[_Tracer] = SimpleQueue()
    for tracer in tracers:
        idle.put(tracer)

    def ask(outline: Network) -> bytes:
        tracer = idle.get()
        try:
            return tracer.trace(outline)
        finally:
            idle.put(tracer)

    pool = ThreadPoolExecutor(len(tracers))
    try:
        yield {key: pool.submit(ask, outline).result for key, outline in outlines.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for tracer in tracers:
            tracer.end()
        pool.shutdown()


class _Tracer:
    """A process of its own that traces what it is sent, one network after another."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def trace(self, outline: Network) -> bytes:
        """What `trace` gives there.

        Raises:
            LatentrtError: the process died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(outline, self._process.stdin)
            self._process.stdin.flush()
            traced, failure = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            status = self._process.wait()
            reason = f"signal {-status}, for want of memory?" if status < 0 else f"exit status {status}"
            raise LatentrtError(f"the process that traced {outline.name} died ({reason}); try again") from error
        if failure:
            raise RuntimeError(f"{outline.name} could not be traced:\n{failure}")
        return traced  # type: ignore[no-any-return]

    def end(self) -> None:
        """Kill it, whatever it does."""
        self._process.kill()
        self._process.communicate()


def serve() -> None:
    """Answer each pickled network on stdin with its trace and no failure, or with None and the failure's text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the export kills this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints gets among the answers
    with suppress(EOFError, BrokenPipeError):  # the export ended
        while True:
            outline = pickle.load(sys.stdin.buffer)
            pickle.dump(_attempt(outline), answers)
            answers.flush()


def _attempt(outline: Network) -> tuple[bytes | None, str | None]:
    try:
        return trace(outline), None
    except Exception:
        return None, traceback.format_exc()
