"""The machine that a trial runs on, in the words of its results."""

from __future__ import annotations

import os
import platform

from latentrt.benchmarks.machine import processor

from ..nvidia_smi import asked
from .results import Machine


def this_machine() -> Machine:
    """Processor, the cores that we may use, memory; and of the first GPU, its name and driver."""
    gpu, driver = next(iter(asked("name", "driver_version")), (None, None))
    return Machine(
        processor=processor(),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.machine()}",
        gpu=gpu,
        driver=driver,
    )
