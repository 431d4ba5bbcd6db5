"""What the machine does while a trial measures: other processes, swap, heat and clocks, as Linux tells them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..nvidia_smi import asked
from .results import Conditions

MOST_OTHERS = 0.15  # cores: from here on other processes are heard in the figures
WIDE = 0.10  # share of the median that the middle half of a quiet machine's samples stays within
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Stretch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the machine did in one stretch of a trial.

    Attributes:
        seconds: that it lasted.
        others: seconds of one core that processes beside ours took, and the host that the machine runs on.
        swapped: bytes.
        throttled: times that a core said it was too hot.
        megahertz: clocks of the cores when it ended, where the system tells.
        gpu_megahertz: those of the GPUs.
    """

    seconds: float
    others: float
    swapped: int = 0
    throttled: int = 0
    megahertz: tuple[float, ...] = ()
    gpu_megahertz: tuple[float, ...] = ()

    @property
    def others_cores(self) -> float:
        """Cores' worth of time that others took."""
        return round(self.others / self.seconds, 3) if self.seconds else 0.0


@dataclass(frozen=True)
class _Counters:
    at: float
    busy: float
    swapped: int
    throttled: int


class Watch:
    """Looks at the machine from one `lap` to the next."""

    def __init__(self) -> None:
        self._before = _counters()
        self._ours = 0.0

    def start(self, own: Sequence[int]) -> None:
        """Begin a lap; `own` are our processes beside this one, whose time is not that of others."""
        self._before, self._ours = _counters(), _seconds_of(own)

    def lap(self, own: Sequence[int]) -> Stretch:
        """What happened since `start`; a process of ours that ended meanwhile is told by our own children's time."""
        now, ours = _counters(), _seconds_of(own)
        seconds = now.at - self._before.at
        return Stretch(
            seconds=seconds,
            others=max(0.0, now.busy - self._before.busy - (ours - self._ours)),
            swapped=now.swapped - self._before.swapped,
            throttled=now.throttled - self._before.throttled,
            megahertz=tuple(_clocks()),
            gpu_megahertz=tuple(_gpu_clocks()),
        )


def summed(stretches: Sequence[Stretch], spreads: dict[str, float]) -> Conditions:
    """The conditions of a trial; `spreads` are those of latencies, by contestant."""
    seconds = sum(stretch.seconds for stretch in stretches)
    others = sum(stretch.others for stretch in stretches) / seconds if seconds else 0.0
    # a share of less than a second is a matter of the counter's ticks, of 10 ms each
    worst = max((stretch.others_cores for stretch in stretches if stretch.seconds >= 1), default=others)
    swapped = sum(stretch.swapped for stretch in stretches)
    throttled = sum(stretch.throttled for stretch in stretches)
    return Conditions(
        others=round(others, 3),
        worst_others=round(max(worst, others), 3),
        swapped=swapped,
        throttled=throttled,
        megahertz=_range([clock for stretch in stretches for clock in stretch.megahertz]),
        gpu_megahertz=_range([clock for stretch in stretches for clock in stretch.gpu_megahertz]),
        noisy=tuple(_doubts(others, worst, swapped, throttled, spreads)),
    )


def _range(clocks: Sequence[float]) -> tuple[float, float] | None:
    return (min(clocks), max(clocks)) if clocks else None


def _doubts(others: float, worst: float, swapped: int, throttled: int, spreads: dict[str, float]) -> list[str]:
    found = []
    if others > MOST_OTHERS:
        found.append(f"other processes took {others:.2f} of a core on average, more than {MOST_OTHERS}")
    elif worst > 2 * MOST_OTHERS:
        found.append(f"other processes took {worst:.2f} of a core in the worst turn")
    if swapped:
        found.append(f"{swapped / 1e6:.1f} MB went to or came from swap")
    if throttled:
        found.append(f"a core was too hot {throttled} times, and slowed down")
    if wide := [f"{name} ({share:.0%})" for name, share in spreads.items() if share > WIDE]:
        found.append(f"the middle half of latencies spreads over more than {WIDE:.0%} of the median: {', '.join(wide)}")
    return found


def own_cores(pid: int) -> float:
    """Seconds of one core that a process and those it has waited for have taken; 0 where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICK  # utime, stime, cutime, cstime


def thread_seconds(pid: int) -> float:
    """Seconds of one core that the threads of a process have taken, to the nanosecond where Linux keeps them so."""
    try:
        told = [file.read_text(encoding="ascii") for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        return sum(int(line.split()[0]) for line in told) / 1e9
    except (OSError, ValueError, IndexError):  # a thread that ended meanwhile, or no such counters
        return own_cores(pid)


def _seconds_of(own: Sequence[int]) -> float:
    return sum(own_cores(pid) for pid in (os.getpid(), *own))


def _counters() -> _Counters:
    return _Counters(time.monotonic(), _busy(), _swapped(), _throttled())


def _busy() -> float:
    """Seconds of one core that were not idle; time that the host took from a virtual machine (steal) counts."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / _TICK


def _swapped() -> int:
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("pswpin ", "pswpout "))) * _PAGE


def _throttled() -> int:
    counts = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    return sum(_number(file) or 0 for file in counts)


def _clocks() -> list[float]:
    files = sorted(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    if clocks := [kilohertz / 1000 for file in files if (kilohertz := _number(file))]:
        return clocks
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]


def _gpu_clocks() -> list[float]:
    told = [clock for [clock] in asked("clocks.sm")]
    return [float(clock) for clock in told] if all(clock.isdecimal() for clock in told) else []


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
