"""One contestant of `benchmarks/engines.py`, in a process of its own: opened, called, and measured.

`python -m latentrt.benchmarks.engine_worker CONTESTANT BUNDLE CALLS` prints its figures as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.engines import store
from latentrt.engines.backend import Backend, get_backend
from latentrt.engines.bundle import Bundle
from latentrt.engines.golden import GoldenCase
from latentrt.engines.manifest import UNET
from latentrt.engines.metrics import difference
from latentrt.engines.options import BuildOptions
from latentrt.engines.process_memory import peak_bytes
from latentrt.engines.tensor import Feeds

from .unet_bundle import open_unet_bundle, timed_case

Call = Callable[[Feeds], NDArray[Any]]
TORCH = {"torch fp32": "float32", "torch bf16": "bfloat16", "torch bf16 compiled": "bfloat16"}
ENGINES: dict[str, BuildOptions] = {
    "onnxruntime fp32": BuildOptions(),
    "openvino fp32": BuildOptions(),
    "openvino bf16": BuildOptions(precision="bf16"),
}


def main() -> None:
    """Measure the contestant that the arguments name."""
    name, folder, calls = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    bundle = open_unet_bundle(folder)
    call, opening = open_torch(name) if name in TORCH else open_engine(engine_backend(name), bundle)
    print(json.dumps(opening | _measured(call, timed_case(bundle), calls)))


def engine_backend(name: str) -> Backend:
    """The backend of a contestant, such as "openvino bf16"."""
    return get_backend(name.split(maxsplit=1)[0], ENGINES[name])


def open_engine(backend: Backend, bundle: Bundle) -> tuple[Call, dict[str, float]]:
    """A built engine, and the seconds of hashing its files and of opening it."""
    started = time.perf_counter()
    folder = store.find(backend, bundle, UNET)
    hashed = time.perf_counter()
    engine = backend.open(bundle, UNET, folder)
    opened = time.perf_counter()
    output = engine.outputs[0].name
    return lambda feeds: engine.run(feeds)[output], {
        "hashing, s": round(hashed - started, 2),
        "opening, s": round(opened - hashed, 2),
    }


def open_torch(name: str) -> tuple[Call, dict[str, float]]:
    """The UNet as diffusers runs it; in bf16 with channels last, which PyTorch's CPU convolutions prefer."""
    import torch  # noqa: PLC0415 - an engine's process must not hold PyTorch

    from .full_unet import full_unet  # noqa: PLC0415

    unet = full_unet().to(getattr(torch, TORCH[name]))
    if name != "torch fp32":
        unet = unet.to(memory_format=torch.channels_last)
    module = torch.compile(unet) if name.endswith("compiled") else unet

    def call(feeds: Feeds) -> NDArray[Any]:
        given = {key: torch.from_numpy(array) for key, array in feeds.items()}
        given |= {key: given[key].to(unet.dtype) for key in ("sample", "encoder_hidden_states")}
        if name != "torch fp32":
            given["sample"] = given["sample"].to(memory_format=torch.channels_last)
        with torch.inference_mode():
            answer: NDArray[Any] = module(**given, return_dict=False)[0].float().numpy()
        return answer

    return call, {}


def _measured(call: Call, case: GoldenCase, calls: int) -> dict[str, Any]:
    """The first call, which may still pack weights, apart from the others."""
    seconds, others = [], []
    answer: NDArray[Any] = np.empty(0)
    for _ in range(1 + calls):
        started, elsewhere = time.perf_counter(), _others_seconds()
        answer = call(case.inputs)
        seconds.append(round(time.perf_counter() - started, 3))
        others.append(round((_others_seconds() - elsewhere) / seconds[-1], 2))
    [expected] = case.outputs.values()
    return {
        "first call, s": seconds[0],
        "calls, s": seconds[1:],
        "others, cores": others[1:],
        "peak RSS, GB": round(peak_bytes() / 1e9, 2),
        "relative L2": float(f"{difference(answer, expected).relative_l2:.2g}"),
    }


def _others_seconds() -> float:
    """Seconds of one core that other processes have taken so far: whether the machine was ours."""
    user, nice, system, *_ = map(int, Path("/proc/stat").read_text(encoding="ascii").split()[1:8])
    own = os.times()
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - own.user - own.system


if __name__ == "__main__":
    main()
