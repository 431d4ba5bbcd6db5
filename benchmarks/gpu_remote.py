"""A worker process on a leash: orders go in, answers come out, and what takes too long is stopped."""

from __future__ import annotations

import importlib.util
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Refused(Exception):  # noqa: N818 - no error of ours: a contestant that cannot run, and why
    """One line that says why a contestant did not answer."""


class Remote:
    """One `gpu_worker`. Orders are sent by `send`, and answered in turn by `receive`."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("wb")
        command = [sys.executable, "-m", "latentrt.benchmarks.gpu_worker"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=environment(), bufsize=0
        )

    def ask(self, within: float, **order: Any) -> Any:
        """Send an order and wait for its answer, so many seconds.

        Raises:
            Refused: it failed, ended, or took longer; then the process is stopped.
        """
        self.send(**order)
        return self.receive(within)

    def send(self, **order: Any) -> None:
        """Send an order and go on."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
        except BrokenPipeError:
            return  # `receive` says so

    def receive(self, within: float) -> Any:
        """The answer to the first order that has none yet; raises as `ask`."""
        line = self._line(time.monotonic() + max(within, 0.0))
        if line is None:
            self._process.kill()
            self.close()
            raise Refused(f"it took longer than the {within:.0f} s that were left for it")
        if not line.endswith(b"\n"):
            raise Refused(f"its process ended with code {self._process.wait()}: {last_words(Path(self._log.name))}")
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["found"]

    @property
    def ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Let the process end, or end it; closing twice is allowed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    def _line(self, until: float) -> bytes | None:
        """What comes up to the end of a line, or of the process; None where time ends first."""
        assert self._process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return None
            part = self._process.stdout.read(65536)
            if not part:
                break
            line += part
        return line


def last_words(log: Path) -> str:
    """The last line that a process wrote to its log, which for Python is the error's own."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")[:300]


def environment() -> dict[str, str]:
    """Our own, with the folders of CUDA's Python packages where the loader looks, which ONNX Runtime relies on."""
    spec = importlib.util.find_spec("nvidia")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    folders = [str(folder) for place in places for folder in sorted(Path(place).glob("*/lib"))]
    known = os.environ.get("LD_LIBRARY_PATH")
    return dict(os.environ) | {"LD_LIBRARY_PATH": ":".join([*folders, *([known] if known else [])])}
