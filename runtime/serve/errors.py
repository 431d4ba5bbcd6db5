"""Why a picture that was asked for over HTTP is not drawn, beside the errors that `latentrt.engines.errors` draws.

LatentrtError
└── ServeError
    ├── RefusedError
    │   ├── BusyError       too many pictures wait already
    │   ├── DrainingError   the server is stopping
    │   └── NotReadyError   the engines are being opened, for the first time or again
    ├── DeadlineError       the picture was not done in time
    ├── CalledOffError      the client went away, or called it off
    ├── EngineLostError     the engines died, or the server stopped, while it was drawn
    └── EngineStalledError  a call of an engine never returned: the process has to end (exit code 75)
"""

from __future__ import annotations

from latentrt.engines.errors import LatentrtError


class ServeError(LatentrtError):
    """A picture is not drawn, and the request is not at fault."""


class RefusedError(ServeError):
    """The request was not taken in. `retry_after` is when to ask again, in whole seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BusyError(RefusedError):
    """As many pictures as may wait do so already: of all callers, or with `own_share` of this API key."""

    def __init__(self, message: str, retry_after: int, *, own_share: bool = False) -> None:
        super().__init__(message, retry_after)
        self.own_share = own_share


class DrainingError(RefusedError):
    """The server finishes what it has and takes nothing more."""


class NotReadyError(RefusedError):
    """No engines are open that passed their probe."""


class DeadlineError(ServeError):
    """The picture was not done within the time limit; its rows were freed."""


class CalledOffError(ServeError):
    """The client went away, or called the request off."""


class EngineLostError(ServeError):
    """The engines died, or the server stopped, while the picture was drawn."""


class EngineStalledError(ServeError):
    """A call of an engine does not return. A thread that hangs in native code ends with its process alone."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: nothing was wrong with the command, and it may be tried again
