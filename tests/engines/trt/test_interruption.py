"""What a signal raises waits until the library is done; what it does besides, it does at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from latentrt.engines.tensorrt_rtx_backend import BACKEND
from latentrt.engines.trt.interruption import held_back
from latentrt.engines.trt.log import make_log


@pytest.fixture
def handled() -> Iterator[Any]:
    """The handler that a test installs is gone after it."""
    before = signal.getsignal(signal.SIGTERM)
    yield lambda handler: signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGTERM, before)


def press(then: BaseException | None = None) -> None:
    signal.raise_signal(signal.SIGINT)
    if then is not None:
        raise then


def test_it_waits_for_the_end_of_the_block_and_is_told_at_once() -> None:
    told: list[type[BaseException]] = []
    reached: list[list[type[BaseException]]] = []

    def work() -> None:
        with held_back(lambda error: told.append(type(error))):
            press()
            reached.append(list(told))

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == [[KeyboardInterrupt]]
    assert signal.getsignal(signal.SIGINT) is before


def test_it_comes_before_an_error_that_it_may_have_caused() -> None:
    with pytest.raises(KeyboardInterrupt), held_back():
        press(then=ValueError("the library gave nothing"))


def test_a_handler_that_raises_nothing_is_no_interruption(handled: Any) -> None:
    seen: list[int] = []
    handled(lambda number, frame: seen.append(number))
    with held_back():
        signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]


def test_the_library_drops_what_its_logger_raises_and_this_does_not() -> None:
    """Why it is there: a signal that finds Python in the library's logger."""
    trt, log = BACKEND.family.module, make_log(BACKEND.family.module)
    runtime = trt.Runtime(log)

    class Pressed(list[str]):
        def append(self, line: str) -> None:
            press()

    log.errors = Pressed()
    with pytest.raises(KeyboardInterrupt), held_back():
        runtime.deserialize_cuda_engine(b"not a plan" * 1000)
