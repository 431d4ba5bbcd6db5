"""What the machine did meanwhile: a busy process that is not ours is seen, one that is ours is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from latentrt.benchmarks.trial.conditions import Stretch, Watch, own_cores, summed

BUSY = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"


def quiet(**others: object) -> Stretch:
    return Stretch(**({"seconds": 10.0, "others": 0.1, "megahertz": (2500.0, 3000.0)} | others))  # type: ignore[arg-type]


def test_a_quiet_run_is_not_called_noisy() -> None:
    found = summed([quiet(), quiet()], {"the latency of latentrt": 0.02})
    assert found.noisy == ()
    assert found.others == pytest.approx(0.01)
    assert found.megahertz == (2500.0, 3000.0)


@pytest.mark.parametrize(
    ("stretches", "spreads", "said"),
    [
        ([quiet(others=4.0)], {}, "other processes took 0.40 of a core on average"),
        ([quiet(), quiet(seconds=1.0, others=0.9)], {}, "0.90 of a core in the worst turn"),
        ([quiet(swapped=4096)], {}, "went to or came from swap"),
        ([quiet(throttled=2)], {}, "too hot 2 times"),
        ([quiet()], {"torch": 0.3, "latentrt": 0.05}, "over more than 10% of the median: torch (30%)"),
    ],
)
def test_what_makes_figures_doubtful_is_said(stretches: list[Stretch], spreads: dict[str, float], said: str) -> None:
    [line] = summed(stretches, spreads).noisy
    assert said in line


def test_a_stretch_too_short_for_the_systems_clock_is_no_worst_turn() -> None:
    assert summed([quiet(), quiet(seconds=0.02, others=0.02)], {}).noisy == ()


def test_work_of_a_process_of_ours_is_not_that_of_others() -> None:
    """One watch knows of the process and the other does not: they differ by what it took."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    knowing, unknowing = Watch(), Watch()
    knowing.start([process.pid])
    unknowing.start([])
    while own_cores(process.pid) < 0.4:
        time.sleep(0.02)
    took, everything = knowing.lap([process.pid]).others, unknowing.lap([]).others
    process.wait()
    assert everything - took >= 0.3


def test_time_of_processes_is_counted_with_what_they_waited_for() -> None:
    before = own_cores(os.getpid())
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    assert own_cores(os.getpid()) - before >= 0.45
    assert own_cores(2**22 + 1) == 0.0
