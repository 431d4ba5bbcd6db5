"""What an export of Stable Diffusion 1.5 takes, form by form: time, peak memory, and the size of the bundle.

`python -m latentrt.benchmarks.export_full` makes checkpoints of the true size, exports each in a process of its
own, and writes `results/export.json`. It needs some 20 GB of disk; `--forms` chooses, `--folder` says where.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import msgspec
import torch
from rich.console import Console

from latentrt.engines.bundle import Bundle
from latentrt.engines.trajectory import load_trajectories
from latentrt.runtime.verify import VerifyReport

from .full_size import write_checkpoint
from .machine import figures_so_far, write_result

HALVED = "emaonly-fp16.safetensors --precision fp16"
VERIFIED = ("emaonly-fp16.safetensors", HALVED)  # the bundles that `latentrt verify` replays
FORMS: dict[str, dict[str, Any]] = {  # file -> how it is written
    "emaonly-fp16.safetensors": {"dtype": torch.float16},
    HALVED: {"dtype": torch.float16},
    "emaonly-fp32.safetensors": {"dtype": torch.float32},
    "emaonly-fp32.ckpt": {"dtype": torch.float32},
    "emaonly-fp32-torch1.ckpt": {"dtype": torch.float32, "zipped": False},
    "pruned-fp32.safetensors": {"dtype": torch.float32, "ema": True},
}
PROTOCOL = """Checkpoints of Stable Diffusion 1.5's keys and shapes, seeded random weights; 'latentrt export' of each in
a fresh process just after the file was written, so the disk is warm: wall time, the seconds of all cores together, what
else the machine worked meanwhile, and the greatest resident set of its processes together, looked at four times a
second (mapped pages of the checkpoint included, and shared ones as often as they are mapped).
'verify' replays PyTorch's recorded answers in onnxruntime, in a further process: the largest relative L2 error of each
part, beside the floors, PyTorch's own runs in fp16 and bf16."""
_COMMAND = "import sys; from latentrt.cli import main; main()"


def main() -> None:
    """Write, export and measure each form; each is added to what was measured on this machine before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forms", nargs="*", choices=list(FORMS), default=list(FORMS), metavar="FORM")
    parser.add_argument("--folder", type=Path, help="where the checkpoints and bundles go for a while")
    arguments = parser.parse_args()
    for name in arguments.forms:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            found = {name: measure(Path(folder), name)}
        print(found, file=sys.stderr)
        figures = figures_so_far("export") | found
        write_result("export", {form: figures[form] for form in FORMS if form in figures}, " ".join(PROTOCOL.split()))


def measure(folder: Path, name: str) -> dict[str, Any]:
    """Time, memory and sizes of one form; what `verify` finds, of those that it is asked of."""
    file, *options = name.split()
    checkpoint, bundle = folder / file, folder / "bundle"
    with Console(stderr=True).status(f"writing {file}"):
        write_checkpoint(checkpoint, **FORMS[name])
    seconds, cpu, others, peak = run_command("export", str(checkpoint), "-o", str(bundle), *options)
    manifest = Bundle.open(bundle).manifest
    sizes = {file: record.size for file, record in manifest.files.items()}
    figures = {
        "checkpoint, GB": round(checkpoint.stat().st_size / 1e9, 2),
        "seconds": round(seconds, 1),
        "CPU seconds": round(cpu, 1),
        "others' CPU seconds": round(others, 1),
        "peak RSS, GB": round(peak / 1e9, 2),
        "bundle, GB": round(sum(sizes.values()) / 1e9, 2),
        "golden, MB": round(sum(size for file, size in sizes.items() if file.startswith("golden/")) / 1e6, 1),
        "error": {component: stated.max_abs_error for component, stated in manifest.components.items()},
    }
    return figures | ({"verify": _verified(bundle)} if name in VERIFIED else {})


def _verified(path: Path) -> dict[str, Any]:
    """What `latentrt verify` finds, and the floors that the bundle records."""
    report = path.with_suffix(".json")
    with report.open("wb") as output:
        seconds, _, _, peak = run_command("verify", str(path), "--json", output=output)
    found = msgspec.json.decode(report.read_bytes(), type=VerifyReport)
    bundle = Bundle.open(path)
    assert bundle.manifest.trajectory is not None
    trajectories = {
        f"trajectory {one.facts.name}": one.facts for one in load_trajectories(bundle, bundle.manifest.trajectory)
    }
    parts: dict[str, Any] = {}
    for check in found.checks:
        part = f"{check.part}, {check.tensor}" if check.part in trajectories else check.part
        parts[part] = max(parts.get(part, 0.0), check.difference.relative_l2)
    floors: dict[str, Any] = {name: component.floor for name, component in bundle.manifest.components.items()}
    for name, facts in trajectories.items():
        floors[f"{name}, latents"] = {precision: max(floor.latents) for precision, floor in facts.floor.items()}
        floors[f"{name}, image"] = {precision: floor.image for precision, floor in facts.floor.items()}
    return {
        "seconds": round(seconds, 1),
        "peak RSS, GB": round(peak / 1e9, 2),
        "passed": found.passed,
        "relative L2": {part: float(f"{error:.1e}") for part, error in parts.items()},
        "floor": {part: floor for part, floor in floors.items() if part in parts},
    }


def run_command(*words: str, output: IO[bytes] | None = None) -> tuple[float, float, float, int]:
    """Wall seconds, CPU seconds of one command and of all else meanwhile, and its peak resident bytes."""
    started, busy = time.perf_counter(), _busy_seconds()
    process = subprocess.Popen([sys.executable, "-c", _COMMAND, *words], stdout=output)
    peak, ended = 0, 0
    while not ended:
        time.sleep(0.25)
        peak = max(peak, _resident_bytes(process.pid))
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    seconds, cpu = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    if status != 0:
        sys.exit(f"latentrt {' '.join(words)} failed")
    process.returncode = 0
    return seconds, cpu, max(0.0, _busy_seconds() - busy - cpu), max(peak, usage.ru_maxrss * 1024)


def _resident_bytes(pid: int) -> int:
    """What a process and those it started hold in memory; 0 for one that has ended."""
    place = Path(f"/proc/{pid}")
    try:
        pages = int((place / "statm").read_text(encoding="ascii").split()[1])
        children = [
            int(child) for task in (place / "task").iterdir() for child in (task / "children").read_text().split()
        ]
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(map(_resident_bytes, children))


def _busy_seconds() -> float:
    """What all cores together have worked since the machine started."""
    _, user, nice, system, *_ = Path("/proc/stat").read_text(encoding="ascii").split()
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
