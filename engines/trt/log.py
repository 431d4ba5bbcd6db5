"""What the library says, kept instead of printed: the errors become the one line of an exception."""

from __future__ import annotations

from typing import Any, Protocol


class Log(Protocol):
    """A logger that the library takes, and what it has heard."""

    errors: list[str]


def make_log(trt: Any) -> Log:
    """A logger for `trt`, which must outlive all that is made with it."""
    severity = trt.ILogger.Severity

    class Kept(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, level: Any, message: str) -> None:
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    kept: Log = Kept()
    return kept


def reason(log: Log) -> str:
    """The first error that was logged: later ones follow from it."""
    return log.errors[0][:300] if log.errors else "the library gives no reason"
