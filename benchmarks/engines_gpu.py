"""How fast latentrt's engines are on this machine's GPU beside PyTorch: SD 1.5's true size, random weights, no network.

From a clone of the repository:

    pip install 'latentrt[cuda,export]'      # and [tensorrt], [rtx] for those that are to run
    python -m latentrt.benchmarks.engines_gpu --seconds 480

Without an index, or beside a PyTorch with CUDA that is to stay, `PYTHONPATH=src` serves, with what it lacks brought as
wheels: diffusers, msgspec, onnxruntime-gpu (256 MB), and, where they are not there, cuda-bindings, numpy, onnx,
onnx-ir, onnxscript, pillow, rich, safetensors, tokenizers, transformers. Nothing is downloaded. `--device cpu --tiny`
goes the same way with a network so small that it takes a minute on any machine.

Everything has its part of `--seconds`. What cannot run, or not in time, is named in the result with its reason; the
result is written anew after each thing that was measured: `results/engines-<GPU>.json`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .contestants.remote import last_words
from .gpu_contestants import ENTRIES
from .gpu_facts import facts, gpu_megabytes
from .gpu_field import Field
from .gpu_libraries import environment
from .machine import RESULTS, write_result
from .readme_tables import engines_gpu_table

PROTOCOL = """One call of the UNet of Stable Diffusion 1.5 ({size} size, seeded random weights), 2 rows at
{side}x{side}. Each contestant has a process of its own; they take turns, {rounds} rounds of {calls} calls after 3 that
do not count, by a clock that waits for the device; the median. An engine's call begins and ends in host memory,
PyTorch's on the device. Error: relative L2 against PyTorch fp32 on the CPU, the largest over three recorded calls.
Memory: what the driver counts less when the process ends, CUDA's own included. The floor is the arithmetic of a call
over the speed of a matrix product of 8192 x 8192 measured here. Pictures: prompt to picture object, {steps} steps of
euler, guided, the best of three after one. Compiled: max-autotune, channels last."""
_BUILD_SHARE = 0.75  # of the time: a bundle or a compiled UNet that is not there by then comes too late to be measured
_LATE = ("tensorrt", "tensorrt-rtx")  # they time kernels as they build: nothing else may run beside them
_LEAST_SECONDS = 45  # that must be left to begin with one of those


def main() -> None:
    """Measure what runs here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480.0, help="all that it may take")
    parser.add_argument("--device", choices=sorted(ENTRIES), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a very small network: to try this script")
    parser.add_argument("--bundle", type=Path, help="what random_model exported before; without it, made anew")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20, help="of each contestant in each round")
    parser.add_argument("--steps", type=int, default=50, help="of a picture")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    with tempfile.TemporaryDirectory(prefix="latentrt-gpu-") as work:
        Run(parser.parse_args(), Path(work)).run()


class Run:
    """One run of the script: its clock, its figures so far, and where they go."""

    def __init__(self, asked: argparse.Namespace, work: Path) -> None:
        self._asked, self._work = asked, work
        self._ends = time.monotonic() + asked.seconds
        self._export_log = work / "export.log"
        self._size = "tiny" if asked.tiny else "full"
        self.figures: dict[str, Any] = {"machine": {}, "contestants": {}, "not run": {}, "stages, s": {}}

    def run(self) -> None:
        """All stages, one after another."""
        asked = self._asked
        bundle = asked.bundle or self._work / "bundle"
        field = Field(asked.device, self._size, bundle, self._work, self.figures)
        exporting = None if asked.bundle else self._export(bundle)
        try:
            field.start("torch")
            with self._stage("machine"):
                self.figures["machine"] = facts()
            self._save()
            with self._stage("export, beside torch.compile"):
                exported = exporting is None or self._wait(exporting)
            if exported:
                self._first(field)
                for library in _LATE:
                    self._late(field, library)
            with self._stage("closing"):
                field.close(gpu_megabytes if asked.device == "cuda" else None)
            self._save()
            with self._stage("kernels"):
                field.kernels(self._left)
        finally:
            if exporting is not None and exporting.poll() is None:
                exporting.kill()
                exporting.wait()
            field.close(None)
            self._save()
        print(engines_gpu_table(self.figures))

    def _first(self, field: Field) -> None:
        """PyTorch and those engines whose builds are short."""
        with self._stage("engines, beside torch.compile"):
            field.start("onnxruntime-cuda" if self._asked.device == "cuda" else "onnxruntime")
            field.await_ready(lambda: self._left() - (1 - _BUILD_SHARE) * self._asked.seconds)
        with self._stage("floor"):
            field.floor(self._left)
        self._save()
        self._measure(field)

    def _late(self, field: Field, library: str) -> None:
        if not any(entry.library == library for entry in ENTRIES[self._asked.device]):
            return
        with self._stage(f"building {library}"):
            if self._left() < _LEAST_SECONDS:
                field.refuse(library, f"only {self._left():.0f} s were left to build it")
                return
            field.start(library)
            fresh = field.await_ready(lambda: self._left() - _LEAST_SECONDS / 2)
        if fresh:
            self._measure(field)

    def _measure(self, field: Field) -> None:
        """Everyone again, so that all medians are of the same rounds; then what is asked once of each."""
        asked = self._asked
        with self._stage("timing"):
            field.time(asked.rounds, asked.calls, self._left)
        self._save()
        for name in field.names():
            with self._stage("accuracy"):
                field.check(name, self._left)
        self._save()
        for name in field.names():
            with self._stage("pictures"):
                field.draw(name, asked.steps, self._left)
            self._save()

    def _export(self, bundle: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "latentrt.benchmarks.random_model", str(bundle)]
        command += [self._size, self._asked.device]
        with self._export_log.open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment())

    def _wait(self, exporting: subprocess.Popen[bytes]) -> bool:
        seconds = max(0.0, self._left() - (1 - _BUILD_SHARE) * self._asked.seconds)
        try:
            code = exporting.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.figures["not run"]["export"] = f"it took longer than the {seconds:.0f} s that were left for it"
            return False
        if code:
            self.figures["not run"]["export"] = f"it ended with code {code}: {last_words(self._export_log)}"
        return code == 0

    def _left(self) -> float:
        return float(self._ends - time.monotonic())

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Add up how long a stage takes, and say it."""
        started = time.monotonic()
        try:
            yield
        finally:
            spent = self.figures["stages, s"]
            spent[name] = round(spent.get(name, 0.0) + time.monotonic() - started, 1)
            print(f"{name}: {time.monotonic() - started:.1f} s, {self._left():.0f} s left", file=sys.stderr)

    def _save(self) -> None:
        asked, gpu = self._asked, str(self.figures["machine"].get("GPU", ""))
        if asked.device == "cuda":
            name = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") if gpu and "no answer" not in gpu else "gpu"
        else:
            name = "gpu-script-tried-on-cpu"
        protocol = PROTOCOL.format(
            size="true" if self._size == "full" else "a very small",
            side=512 if self._size == "full" else 32,
            rounds=asked.rounds,
            calls=asked.calls,
            steps=asked.steps,
        )
        write_result(f"engines-{name}", self.figures, " ".join(protocol.split()), asked.results)


if __name__ == "__main__":
    main()
