"""A real tritonserver on this machine's processor, from the wheel of nvidia-pytriton, in an environment of its own."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from support.serving import PATIENCE, until

VARIABLE = "LATENTRT_TRITON_ENV"  # an environment that `environment` made before
PYTHON = Path("/usr/bin/python3.11")  # Triton's stub for Python links libpython: Debian's is shared, pyenv's is not
ROOT = Path(__file__).resolve().parents[2]
# this Triton is 24.10, the last before its Python backend learned numpy 2; grpcio wants an older protobuf than onnx
APART = {"numpy": "numpy==1.26.4", "protobuf": "", "tritonclient": "tritonclient[grpc]==2.69.0"}
NEEDED = ("msgspec", "onnxruntime", "pillow", "prometheus_client", "rich", "safetensors", "tokenizers", "typer")


def environment(place: Path) -> Path:
    """The environment that `LATENTRT_TRITON_ENV` names, or a new one at `place`: 700 MB, from the package index."""
    if (given := os.environ.get(VARIABLE)) is not None:
        return Path(given)
    if not PYTHON.exists():
        pytest.skip(f"tritonserver needs {PYTHON} with a shared library: install Debian's python3.11-venv")
    subprocess.run([PYTHON, "-m", "venv", place], check=True)
    pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "nvidia-pytriton==0.7.0"], check=True)
    pins = dict(re.findall(r"(?m)^([\w-]+)(==.*)$", (ROOT / "constraints.txt").read_text()))
    wanted = [f"{name}{pins[name]}" for name in NEEDED] + [word for word in APART.values() if word]
    subprocess.run([*pip, *wanted], check=True)
    (_packages(place) / "latentrt.pth").write_text(f"{ROOT / 'src'}\n")
    return place


class Triton:
    """A server under way, on ports of its own."""

    def __init__(self, process: subprocess.Popen[bytes], http: int, grpc: int, metrics: int, log: Path) -> None:
        self.process, self.http, self.grpc, self.metrics, self.log = process, http, grpc, metrics, log

    @property
    def ready(self) -> bool:
        """Whether all its models are; a server that ended fails the test with its log."""
        assert self.process.poll() is None, self.log.read_text(errors="replace")[-20_000:]
        try:
            return httpx2.get(f"http://127.0.0.1:{self.http}/v2/health/ready").status_code == 200
        except httpx2.HTTPError:
            return False

    def figure(self, name: str) -> float:
        """The figure of this name on the metrics port; the only one of its name."""
        text = httpx2.get(f"http://127.0.0.1:{self.metrics}/metrics").text
        [value] = re.findall(rf"(?m)^{name}(?:{{.*}})? (.*)$", text)
        return float(value)


@contextmanager
def tritonserver(place: Path, repository: Path, work: Path) -> Iterator[Triton]:
    """Serve a model repository until the block ends; `work` takes its log and its backend."""
    home = _packages(place) / "pytriton" / "tritonserver"
    backends = work / "backends"
    shutil.copytree(home / "backends", backends)
    stub = home / "python_backend_stubs" / "3.11" / "triton_python_backend_stub"
    shutil.copy(stub, backends / "python")
    (backends / "python" / stub.name).chmod(0o755)
    libraries = _packages(place) / "nvidia_pytriton.libs"
    ports = {name: _free_port() for name in ("http", "grpc", "metrics")}
    arguments = [f"--{name}-port={port}" for name, port in ports.items()]
    arguments += [f"--{name}-address=127.0.0.1" for name in ports]
    log = work / "tritonserver.log"
    variables = {"HOME": str(work), "PATH": f"{place}/bin:{os.defpath}", "LD_LIBRARY_PATH": str(libraries)}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [home / "bin" / "tritonserver", f"--model-repository={repository}", f"--backend-directory={backends}",
             "--exit-timeout-secs=60", *arguments],
            env=variables, stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        server = Triton(process, **ports, log=log)
        until(lambda: server.ready, "readiness")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _packages(place: Path) -> Path:
    return place / "lib" / "python3.11" / "site-packages"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port
