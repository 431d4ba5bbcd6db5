"""Ctrl-C, remembered: a library that it reaches in the middle of a call may turn it into an error of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether Ctrl-C was pressed."""

    pressed = False


@contextmanager
def watch_interrupt() -> Iterator[Interrupt]:
    """Raise KeyboardInterrupt on Ctrl-C as Python does, and remember it; a thread beside the main one has no say."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        interrupt.pressed = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
