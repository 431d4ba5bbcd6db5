"""A worker process on a leash: orders go in, answers come out, and what takes too long is stopped."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_GRACE = 10.0  # seconds that a process has to end by itself once nothing more will be asked of it


class Refused(Exception):  # noqa: N818 - no error of ours: a contestant that cannot run, and why
    """One line that says why a contestant did not answer. Results are passed on: the user's own folder is "~" in it."""

    def __init__(self, words: str) -> None:
        super().__init__(words.replace(str(Path.home()), "~"))


class Remote:
    """A process that reads orders, a JSON object a line, and answers each: `{"found": ...}` or `{"error": ...}`.

    Orders are sent by `send`, and answered in turn by `receive`. The process is the head of a group of its own, so that
    Ctrl-C does not reach it, and that what it starts ends with it.

    Attributes:
        started: `time.perf_counter()` when the process was started.
        log: the file that takes whatever the process and its libraries print.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str], threads: int | None = None
    ) -> None:
        self.log = log
        self._stream = log.open("wb")
        self._unread = b""
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [*command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stream,
            env=dict(environment) if threads is None else dict(environment) | {"OMP_NUM_THREADS": str(threads)},
            bufsize=0,
            start_new_session=True,
        )
        if threads is not None:  # the one word that every library hears; before it has started any thread
            os.sched_setaffinity(self.pid, sorted(os.sched_getaffinity(0))[:threads])

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    def ask(self, within: float, **order: Any) -> Any:
        """Send an order and wait for its answer, so many seconds.

        Raises:
            Refused: it failed, ended, or took longer; in the last two cases the process is no more.
        """
        self.send(**order)
        return self.receive(within)

    def send(self, **order: Any) -> None:
        """Send an order and go on."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):  # `receive` says that it ended, or was closed
            self._process.stdin.write(json.dumps(order).encode() + b"\n")

    def receive(self, within: float) -> Any:
        """The answer to the first order that has none yet; raises as `ask`."""
        if self._stream.closed:
            raise Refused("its process was stopped")
        until = time.monotonic() + max(within, 0.0)
        while (answer := self._answer(until, within)) is None:
            pass
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["found"]

    def close(self, grace: float = _GRACE) -> None:
        """Let the process end, or after `grace` seconds end it, with all that it started; closing twice is allowed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._stream.closed:
            return
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=grace)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._kill()
            self._process.wait()
            self._process.stdout.close()
            self._stream.close()

    def _answer(self, until: float, within: float) -> dict[str, Any] | None:
        """The next line; None where it is no answer but what a library prints when it is imported."""
        line = self._line(until)
        if line is None:
            self._kill()
            self.close()
            raise Refused(f"it took longer than the {within:.0f} s that were left for it")
        if not line.endswith(b"\n"):
            code = self._process.wait()
            self.close()
            raise Refused(f"its process ended with {_ending(code)}: {last_words(self.log)}")
        try:
            answer = json.loads(line)
        except ValueError:
            return None
        return answer if isinstance(answer, dict) and answer.keys() & {"found", "error"} else None

    def _kill(self) -> None:
        """End whatever is left of the group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _line(self, until: float) -> bytes | None:
        """What comes up to the end of a line, or of the process; None where time ends first."""
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return None
            part = self._process.stdout.read(65536)
            if not part:
                break
            self._unread += part
        line, end, self._unread = self._unread.partition(b"\n")
        return line + end


def last_words(log: Path) -> str:
    """The last line that a process wrote to its log, which for Python is the error's own."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")[:300]


def _ending(code: int) -> str:
    """`-9` -> "signal SIGKILL", `1` -> "code 1"."""
    return f"code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
