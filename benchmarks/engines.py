"""How fast the CPU engines are beside PyTorch: one call of SD 1.5's UNet, true size, two rows at 512x512.

`python -m latentrt.benchmarks.engines --folder FOLDER` exports the UNet there, where it is not yet, builds its engines,
times all contestants in turn, and writes `results/engines-cpu.json`. It needs 15 GB of disk and of memory, and some
twenty minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from .engine_worker import ENGINES, TORCH
from .machine import write_result

COMPILED = "torch bf16 compiled"
PROTOCOL = """One call of Stable Diffusion 1.5's UNet, true size, seeded random weights, 2 rows at 512x512, fp32 in
and out. Each contestant runs in a process of its own, alone, and all of them take turns, {rounds} rounds: opened from a
warm disk, one call that does not count (the first one), then {calls} that do. Median over all of them; other processes
took {others:.2f} cores meanwhile. Peak RSS counts mapped files (a compiled engine's weights) too. Error: relative L2
against torch fp32. torch: diffusers' own class, bf16 with channels last. Opening: hashing included. Profiles are of a
second call in a further process, by the libraries' own counters."""
# what the engines were meant to reach: a contestant's median over another's, opening with hashing in s, peak RSS in GB
RATIOS = {
    ("openvino bf16", "torch fp32"): 0.42,
    ("openvino bf16", "torch bf16"): 0.76,
    ("onnxruntime fp32", "torch fp32"): 0.85,
}
OPENING = {"onnxruntime fp32": 9.0, "openvino fp32": 6.0, "openvino bf16": 6.0}
PEAK = {"onnxruntime fp32": 6.0}


def main() -> None:
    """Export and build what is missing, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/full-unet"), help="where the UNet and engines stay")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--calls", type=int, default=3, help="timed calls of each contestant in each round")
    parser.add_argument("--compiled", action="store_true", help="time torch.compile too, which compiles for minutes")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    _module("full_unet", str(folder))
    for name in ENGINES:
        _module("engine_builds", name, str(folder))
    names = [name for name in (*TORCH, *ENGINES) if arguments.compiled or name != COMPILED]
    measured = measure(names, folder, arguments.rounds, arguments.calls)
    figures: dict[str, Any] = {"contestants": measured, "targets": targets(measured)}
    if not arguments.compiled:
        figures["not run"] = {COMPILED: "it compiles for minutes: --compiled times it"}
    figures["profile, ms"] = {name: json.loads(_module("engine_profile", name, str(folder))) for name in ENGINES}
    others = statistics.mean(cores for values in measured.values() for cores in values["others, cores"])
    protocol = PROTOCOL.format(rounds=arguments.rounds, calls=arguments.calls, others=others)
    write_result("engines-cpu", figures, " ".join(protocol.split()))


def measure(names: list[str], folder: Path, rounds: int, calls: int) -> dict[str, dict[str, Any]]:
    """The figures of each contestant over all rounds; they take turns, so that a slower hour is everyone's."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _ in range(rounds):
        for name in names:
            _read_ahead(folder)
            runs[name].append(json.loads(_module("engine_worker", name, str(folder), str(calls))))
            print(name, runs[name][-1], file=sys.stderr)
    return {name: _joined(found) for name, found in runs.items()}


def _joined(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, and all figures that it comes from; of memory the largest."""
    times, others = ([figure for run in runs for figure in run[key]] for key in ("calls, s", "others, cores"))
    figures: dict[str, Any] = {"median, s": round(statistics.median(times), 2), "calls, s": times}
    figures["others, cores"] = others
    for key in ("first call, s", "hashing, s", "opening, s"):
        if key in runs[0]:
            figures[key] = [run[key] for run in runs]
    figures["peak RSS, GB"] = max(run["peak RSS, GB"] for run in runs)
    return figures | {"relative L2": runs[0]["relative L2"]}


def targets(measured: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What was aimed at beside what was found."""
    found = [
        (f"{one}, time over {other}", _over(measured, one, other), limit) for (one, other), limit in RATIOS.items()
    ]
    found += [(f"{name}, opening with hashing, s", _opening(measured[name]), limit) for name, limit in OPENING.items()]
    found += [(f"{name}, peak RSS, GB", measured[name]["peak RSS, GB"], limit) for name, limit in PEAK.items()]
    return [
        {"what": what, "at most": limit, "found": figure, "reached": figure <= limit} for what, figure, limit in found
    ]


def _over(measured: dict[str, dict[str, Any]], one: str, other: str) -> float:
    return round(float(measured[one]["median, s"] / measured[other]["median, s"]), 3)


def _opening(figures: dict[str, Any]) -> float:
    pairs = zip(figures["hashing, s"], figures["opening, s"], strict=True)
    return round(statistics.median(float(sum(pair)) for pair in pairs), 2)


def _read_ahead(folder: Path) -> None:
    """Read what the next contestant will read, so that the disk is warm for each."""
    for file in sorted(folder.glob("engines/*/*")):
        with file.open("rb") as stream:
            while stream.read(2**24):
                pass


def _module(name: str, *words: str) -> str:
    command = [sys.executable, "-m", f"latentrt.benchmarks.{name}", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
