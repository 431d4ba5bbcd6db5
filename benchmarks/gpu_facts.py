"""What a machine with a GPU offers: the driver's own words, TensorRT's libraries, and whether they take the device.

`python -m latentrt.benchmarks.gpu_facts MODULE` has `tensorrt` or `tensorrt_rtx` build a small network and run it.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .gpu_libraries import environment

_PLACES = ("/usr", "/opt", "/lib", "/usr/local")
_PROVIDERS = "import onnxruntime as ort; print(ort.__version__, *ort.get_available_providers())"
_SECONDS = 60  # for each question


def facts() -> dict[str, Any]:
    """All of it, asked at once, each in a process of its own; a question that fails is answered by why."""
    here = [sys.executable, "-m", "latentrt.benchmarks.gpu_facts"]
    questions: dict[str, Callable[[], Any]] = {
        "nvidia-smi": lambda: _said(["nvidia-smi"]).split("\n"),
        "GPU": gpu_name,
        "libnvinfer": libnvinfer,
        "onnxruntime": lambda: _said([sys.executable, "-c", _PROVIDERS]),
        "tensorrt": lambda: _said([*here, "tensorrt"]),
        "tensorrt-rtx": lambda: _said([*here, "tensorrt_rtx"]),
    }
    with ThreadPoolExecutor() as pool:
        asked = {name: pool.submit(question) for name, question in questions.items()}
        return {name: answer.result() for name, answer in asked.items()}


def gpu_name() -> str:
    """Of the first GPU, or why there is none."""
    return _said(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).partition("\n")[0]


def gpu_megabytes() -> int | None:
    """Memory of the first GPU that is in use, in MiB; None where nobody can tell."""
    said = _said(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]).partition("\n")[0]
    return int(said) if said.strip().isdecimal() else None


def libnvinfer() -> list[str]:
    """Every TensorRT library on this machine, as far as it can be found in half a minute."""
    packages = [place for place in sys.path if Path(place).is_dir()]
    places = [*_PLACES, *packages]
    found = _said(["find", *places, "-name", "libnvinfer*", "-o", "-name", "libtensorrt_rtx*"], seconds=30)
    return sorted({line for line in found.split("\n") if "/lib" in line and not line.startswith("no answer")})


def build_and_run(module: str) -> str:
    """Let a library of TensorRT's family build a network for the GPU that is there, and run it; its version.

    Raises:
        Exception: what the library says where it does not.
    """
    from latentrt.engines.trt.cuda import call, cudart  # noqa: PLC0415 - asks for cuda-python

    trt = importlib.import_module(module)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    doubled = network.add_input("x", trt.float32, (1, 64))
    output = network.add_elementwise(doubled, doubled, trt.ElementWiseOperation.SUM).get_output(0)
    output.name = "y"
    network.mark_output(output)
    config = builder.create_builder_config()
    if hasattr(trt, "ComputeCapability"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("it built nothing for this device")
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    memory = int(call(cudart.cudaMalloc, 512))
    for name, address in (("x", memory), ("y", memory + 256)):
        context.set_tensor_address(name, address)
    if not context.execute_async_v3(0):
        raise RuntimeError("it could not start the run")
    call(cudart.cudaDeviceSynchronize)
    return f"{trt.__version__} builds for this device and runs on it"


def _said(command: Sequence[str], seconds: float = _SECONDS) -> str:
    """What a command prints, or why it prints nothing: one line then."""
    if shutil.which(command[0]) is None:
        return f"no answer: there is no {command[0]}"
    try:
        ended = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=seconds, env=environment(), errors="replace"
        )
    except subprocess.TimeoutExpired:
        return f"no answer: {command[0]} took longer than {seconds:.0f} s"
    if ended.returncode == 0 or command[0] == "find":  # which cannot enter every folder, and says so by its code
        return ended.stdout.strip()
    lines = [line.strip() for line in (ended.stdout + ended.stderr).split("\n") if line.strip()]
    said = next((line for line in lines if "[E]" in line), lines[-1] if lines else f"code {ended.returncode}")
    return f"no answer: {said[:300]}"


if __name__ == "__main__":
    print(build_and_run(sys.argv[1]))
