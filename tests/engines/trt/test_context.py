"""When a context is told of shapes and memory: at its first run, and when either changes. A scribe stands for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from latentrt.engines.errors import EngineError
from latentrt.engines.trt.context import ProfileContext


class Scribe:
    """Writes down what a context of the library is told."""

    def __init__(self, refuses: str = "") -> None:
        self.told: list[tuple[Any, ...]] = []
        self._refuses = refuses

    def __getattr__(self, name: str) -> Any:
        def tell(*arguments: Any) -> bool:
            self.told.append((name, *arguments))
            return name != self._refuses

        return tell


STREAM: Any = SimpleNamespace(handle=7, synchronize=lambda: None)


def memory(address: int) -> Any:
    return SimpleNamespace(address=address, size=512)


def context(scribe: Scribe) -> ProfileContext:
    made = ProfileContext(scribe, 1, {"x": 100, "y": 200}, STREAM, recorded=False)
    scribe.told.clear()
    return made


def test_a_new_context_knows_its_profile_and_its_buffers() -> None:
    scribe = Scribe()
    ProfileContext(scribe, 1, {"x": 100, "y": 200}, STREAM, recorded=False)
    assert scribe.told == [
        ("set_optimization_profile_async", 1, 7),
        ("set_tensor_address", "x", 100),
        ("set_tensor_address", "y", 200),
    ]


def test_it_is_told_only_what_changed() -> None:
    scribe = Scribe()
    made = context(scribe)
    run = ("execute_async_v3", 7)
    made.enqueue({"x": (2, 3)}, memory(1), STREAM)
    assert scribe.told == [("set_input_shape", "x", (2, 3)), ("set_device_memory", 1, 512), run]
    scribe.told.clear()
    made.enqueue({"x": (2, 3)}, memory(1), STREAM)
    assert scribe.told == [run]
    scribe.told.clear()
    made.enqueue({"x": (2, 3)}, memory(9), STREAM)  # the arena grew for another engine
    assert ("set_device_memory", 9, 512) in scribe.told
    scribe.told.clear()
    made.enqueue({"x": (1, 3)}, memory(9), STREAM)
    assert ("set_input_shape", "x", (1, 3)) in scribe.told


@pytest.mark.parametrize(
    ("refused", "message"),
    [("set_input_shape", r"does not take x of \(2, 3\)"), ("execute_async_v3", "could not start the run")],
)
def test_what_the_library_refuses_is_an_engine_error(refused: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        context(Scribe(refused)).enqueue({"x": (2, 3)}, memory(1), STREAM)


def test_a_profile_that_is_not_there() -> None:
    with pytest.raises(EngineError, match="the plan has no profile 1"):
        context(Scribe("set_optimization_profile_async"))
