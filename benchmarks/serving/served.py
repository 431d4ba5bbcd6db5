"""The real command, `latentrt serve`, in a process of its own, and what it tells of itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from latentrt.engines.process_memory import resident_bytes

_COMMAND = (sys.executable, "-c", "from latentrt.cli import main; main()", "serve")
_PATIENCE = 600.0  # seconds: full-size engines open, pictures wait


@dataclass(frozen=True)
class Served:
    """A server that is ready: where it listens, and its process."""

    url: str
    process: subprocess.Popen[str]

    @property
    def address(self) -> tuple[str, int]:
        """For a client that speaks no HTTP, or little."""
        place = urlsplit(self.url)
        assert place.hostname is not None
        assert place.port is not None
        return place.hostname, place.port

    def client(self) -> httpx2.Client:
        """A connection of its own."""
        return httpx2.Client(base_url=self.url, timeout=_PATIENCE)

    def metric(self, name: str, **labels: str) -> float:
        """A figure of `/metrics`; 0 where it was never counted."""
        samples = (one for one in self.samples() if one.name == name)
        return sum(one.value for one in samples if labels.items() <= one.labels.items())

    def samples(self) -> list[Sample]:
        """All figures of `/metrics` at one moment."""
        with self.client() as client:
            return samples(client.get("/metrics").text)

    def rss(self) -> int:
        """Bytes that the process holds in memory."""
        return resident_bytes(self.process.pid)

    def open_files(self) -> int:
        """Files and connections that the process has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def samples(metrics: str) -> list[Sample]:
    """The figures in what `/metrics` answered."""
    return [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]


@contextmanager
def served(bundle: Path, *options: str) -> Iterator[Served]:
    """Serve a bundle with these options until the block ends."""
    command = [*_COMMAND, str(bundle), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            first = process.stderr.readline()
            if not first.startswith("{"):
                raise SystemExit(f"the server did not start: {first}{process.stderr.read()}")
            threading.Thread(target=process.stderr.read, daemon=True).start()  # or the pipe would fill
            server = Served(json.loads(first)["url"], process)
            _wait(server, process)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _wait(server: Served, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + _PATIENCE
    with server.client() as client:
        while client.get("/readyz").status_code != 200:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit("the server did not become ready")
            time.sleep(0.1)
