"""What signals raise, Ctrl-C above all, kept from the library's callbacks: there it would be printed and dropped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

Tell = Callable[[BaseException], None]


def tell_nobody(error: BaseException) -> None:
    """Wait for the end of the block."""


@contextmanager
def held_back(tell: Tell = tell_nobody) -> Iterator[None]:
    """Raise what signal handlers raise when the block ends, not where it finds Python; `tell` hears of it at once.

    Python runs a handler at the entry of whichever callback is next, a logger's, say, whose caller is C++: the bindings
    drop what is raised there. Only the main thread has handlers to hold.
    """
    raised: list[BaseException] = []

    def keep(error: BaseException) -> None:
        raised.append(error)
        tell(error)

    try:
        with ExitStack() as stack:
            if threading.current_thread() is threading.main_thread():
                _wrap_handlers(stack, keep)
            yield
    finally:
        if raised:
            raise raised[0]


def _wrap_handlers(stack: ExitStack, keep: Tell) -> None:
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler):  # the others are the system's own, and raise nothing
            stack.callback(signal.signal, number, handler)
            signal.signal(number, _keeping(handler, keep))


def _keeping(handler: Callable[[int, FrameType | None], Any], keep: Tell) -> Callable[[int, FrameType | None], None]:
    def on_signal(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except BaseException as error:  # KeyboardInterrupt is one
            keep(error)

    return on_signal
