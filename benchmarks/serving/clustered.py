"""Ray Serve on this machine alone: replicas of the application, behind Ray's own proxy."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import ray
from ray import serve

from latentrt.runtime.serve.ray_app import app

APPLICATION = "latentrt"
OBJECT_STORE = 80 * 2**20  # bytes: requests and pictures are small
# no statistics to anyone; Ray listens on every address, asks for a token, and would else leave one in the home folder
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
_REPLICA = f"ray::ServeReplica:{APPLICATION}:"
_PATIENCE = 600.0  # seconds: full-size engines open, pictures wait


@dataclass(frozen=True)
class Cluster:
    """A Ray that runs, where its proxy listens, and where it tells its figures."""

    port: int
    metrics_port: int

    @property
    def url(self) -> str:
        """Of the application's root."""
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx2.Client:
        """A connection of its own."""
        return httpx2.Client(base_url=self.url, timeout=_PATIENCE)

    def deploy(self, arguments: Mapping[str, Any]) -> None:
        """Run the application with these arguments, or change it to them; returns when it is ready."""
        serve.run(app(arguments), name=APPLICATION)

    def running(self) -> int:
        """Replicas that Ray holds for healthy."""
        application = serve.status().applications[APPLICATION]
        return sum(one.replica_states.get("RUNNING", 0) for one in application.deployments.values())

    def figures(self) -> str:
        """What Ray tells Prometheus, of all replicas."""
        return httpx2.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=_PATIENCE).text

    def pids(self) -> set[int]:
        """The replicas' processes, as far as the system knows them."""
        return {pid for pid, command in descendants(os.getpid()) if command.startswith(_REPLICA)}


@contextmanager
def cluster(cpus: int) -> Iterator[Cluster]:
    """Start Ray, with so many processors to give away, and end all of it with the block."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: a socket's path has at most 107 bytes
    try:
        port, metrics_port = _free_ports(2)
        ray.init(
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            logging_level="WARNING",
            log_to_driver=False,
            _temp_dir=folder,
            _metrics_export_port=metrics_port,
        )
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield Cluster(port, metrics_port)
    finally:
        if ray.is_initialized():  # else this would start another Ray
            serve.shutdown()
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in listeners]


def descendants(ancestor: int) -> Iterator[tuple[int, str]]:
    """Each process that comes from another: its number, and what it calls itself."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        parents[int(folder.name)] = int(fields[1])
    for pid in parents:
        above = pid
        while above in parents and above != ancestor:
            above = parents[above]
        if above == ancestor and pid != ancestor:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            yield pid, command.replace(b"\0", b" ").decode(errors="replace").strip()
