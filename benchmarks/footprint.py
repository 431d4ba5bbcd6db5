"""How much disk an installation takes: latentrt against the PyTorch stack that it replaces at run time.

`python -m latentrt.benchmarks.footprint` installs each into an empty folder and writes `results/footprint.json`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from .installed import folder_bytes, installed_in
from .machine import write_result

PROJECT = Path(__file__).resolve().parents[1]
CONSTRAINTS = PROJECT / "constraints.txt"
STACKS: dict[str, list[str]] = {
    "latentrt onnxruntime": [str(PROJECT), "onnxruntime"],  # runs engines that were built, and builds none
    "latentrt[cpu]": [f"{PROJECT}[cpu]"],
    "torch (CPU) + diffusers + transformers": ["torch", "diffusers", "transformers"],
}
_LARGEST = 5
PROTOCOL = """Each stack is installed by pip, versions of constraints.txt, into an empty folder of its own, pip itself
not counted; the size is that of all files, links not followed. torch is the CPU build: the CUDA one is larger."""


def main() -> None:
    """Install, measure, write the result."""
    console = Console(stderr=True)
    figures = {}
    for name, packages in STACKS.items():
        with tempfile.TemporaryDirectory() as folder, console.status(f"installing {name}"):
            figures[name] = _measure(Path(folder), packages)
    print(write_result("footprint", figures, " ".join(PROTOCOL.split())).read_text(encoding="utf-8"))


def _measure(folder: Path, packages: list[str]) -> dict[str, Any]:
    target = folder / "site-packages"
    install = ["install", "--quiet", "--target", str(target), "--constraint", str(CONSTRAINTS), "--no-compile"]
    subprocess.run([sys.executable, "-m", "pip", *install, *packages], check=True)
    versions = installed_in(target).versions
    sizes = {entry.name: folder_bytes(entry) for entry in target.iterdir()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:_LARGEST]
    return {
        "torch": versions.get("torch"),
        "MB": round(sum(sizes.values()) / 1e6),
        "packages": len(versions),
        "largest, MB": {name: round(sizes[name] / 1e6, 1) for name in largest},
    }


if __name__ == "__main__":
    main()
