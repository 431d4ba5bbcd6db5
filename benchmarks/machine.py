"""The machine and the versions behind a figure, for every result file."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from latentrt.engines.atomic import new_file
from latentrt.engines.version import __version__

RESULTS = Path(__file__).resolve().parent / "results"
_PACKAGES = ("numpy", "onnxruntime", "openvino", "torch", "diffusers", "transformers", "onnx")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, Python and package versions."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {"latentrt": __version__} | {name: found for name in _PACKAGES if (found := _version(name))},
    }


def figures_so_far(name: str) -> dict[str, Any]:
    """The figures of `benchmarks/results/NAME.json`, if this machine measured them with these versions."""
    try:
        found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return dict(found["figures"]) if found["machine"] == machine() else {}


def write_result(name: str, figures: dict[str, Any], protocol: str, folder: Path = RESULTS) -> Path:
    """Write `benchmarks/results/NAME.json`: how it was measured, on what, and the figures."""
    target = folder / f"{name}.json"
    folder.mkdir(exist_ok=True)
    content = {"protocol": protocol, "machine": machine(), "figures": figures}
    with new_file(target) as place:
        place.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {target}", file=sys.stderr)
    return target


def processor() -> str:
    """The processor's model, as Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return f"{facts.get('model name')} (family {facts.get('cpu family')}, model {facts.get('model')})"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
