"""The machine that a trial runs on, in the words of its results."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess

from latentrt.benchmarks.machine import processor

from .results import Machine


def this_machine() -> Machine:
    """Processor, the cores that we may use, memory; and of the first GPU, its name and driver."""
    gpu, driver = _gpu()
    return Machine(
        processor=processor(),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.machine()}",
        gpu=gpu,
        driver=driver,
    )


def _gpu() -> tuple[str | None, str | None]:
    if shutil.which("nvidia-smi") is None:
        return None, None
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None, None
    name, _, driver = told.partition("\n")[0].partition(", ")
    return (name, driver) if name and driver else (None, None)
