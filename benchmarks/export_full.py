"""What an export of Stable Diffusion 1.5 takes, form by form: time, peak memory, and the size of the bundle.

`python -m latentrt.benchmarks.export_full` makes checkpoints of the true size, exports each in a process of its
own, and writes `results/export.json`. It needs some 20 GB of disk; `--forms` chooses, `--folder` says where.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from latentrt.engines.bundle import Bundle

from .full_size import write_checkpoint
from .machine import write_result

FORMS: dict[str, dict[str, Any]] = {  # file -> how it is written
    "emaonly-fp16.safetensors": {"dtype": torch.float16},
    "emaonly-fp32.safetensors": {"dtype": torch.float32},
    "emaonly-fp32.ckpt": {"dtype": torch.float32},
    "emaonly-fp32-torch1.ckpt": {"dtype": torch.float32, "zipped": False},
    "pruned-fp32.safetensors": {"dtype": torch.float32, "ema": True},
}
PROTOCOL = """Checkpoints of Stable Diffusion 1.5's keys and shapes, seeded random weights; 'latentrt export' of each in
a fresh process just after the file was written, so the disk is warm: wall time, the
seconds of all cores together, and the process's greatest resident set (mapped pages of the checkpoint included)."""
_COMMAND = "import sys; from latentrt.cli import main; main()"


def main() -> None:
    """Write, export and measure each form; write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forms", nargs="*", choices=list(FORMS), default=list(FORMS), metavar="FORM")
    parser.add_argument("--folder", type=Path, help="where the checkpoints and bundles go for a while")
    arguments = parser.parse_args()
    figures = {}
    for name in arguments.forms:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            figures[name] = measure(Path(folder), name)
            print(name, figures[name], file=sys.stderr)
    write_result("export", figures, " ".join(PROTOCOL.split()))


def measure(folder: Path, name: str) -> dict[str, Any]:
    """Time, memory and sizes of one form."""
    checkpoint, bundle = folder / name, folder / "bundle"
    with Console(stderr=True).status(f"writing {name}"):
        write_checkpoint(checkpoint, **FORMS[name])
    seconds, cpu, peak = _export(checkpoint, bundle)
    manifest = Bundle.open(bundle).manifest
    sizes = {file: record.size for file, record in manifest.files.items()}
    figures = {
        "checkpoint, GB": round(checkpoint.stat().st_size / 1e9, 2),
        "seconds": round(seconds, 1),
        "CPU seconds": round(cpu, 1),
        "peak RSS, GB": round(peak / 1e9, 2),
        "bundle, GB": round(sum(sizes.values()) / 1e9, 2),
        "golden, MB": round(sum(size for file, size in sizes.items() if file.startswith("golden/")) / 1e6, 1),
        "error": {component: stated.max_abs_error for component, stated in manifest.components.items()},
    }
    shutil.rmtree(bundle)
    return figures


def _export(checkpoint: Path, bundle: Path) -> tuple[float, float, int]:
    """Wall seconds, seconds of one core, and peak resident bytes of one export."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", _COMMAND, "export", str(checkpoint), "-o", str(bundle)])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status != 0:
        sys.exit(f"the export of {checkpoint.name} failed")
    process.returncode = 0
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
