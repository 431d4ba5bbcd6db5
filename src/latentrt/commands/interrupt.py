"""Ctrl-C and SIGTERM, remembered: a library that one reaches in the middle of a call may make its own error of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # a keyboard's, and that of whoever stops a service or a container


class Interrupt:
    """Whether somebody asked the command to stop."""

    pressed = False


@contextmanager
def watch_interrupt() -> Iterator[Interrupt]:
    """Raise KeyboardInterrupt on either, so that what is half written goes; a thread beside the main has no say."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        interrupt.pressed = True
        raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
