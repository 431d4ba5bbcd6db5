"""Holds a trial against limits and an earlier one: what regressed, by how much, and whether noise explains it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from latentrt.engines.errors import InputError

from .conditions import MOST_OTHERS
from .journal import unlike
from .results import Contestant, Machine, Metric, Results, Settings
from .slowdown import Slowdown, slowdown, told

FURTHER = 3  # times the turns that were asked for: what a gate in doubt may take in all
OURS = "latentrt"  # the contestants that a gate is for; peers are not ours to hold
# how much was measured, and of whom, does not change what a figure means; the bundle is what may have changed
_FREE = (
    "bundle",
    "source",
    "contestants",
    "rounds",
    "pictures",
    "cold_starts",
    "calls",
    "batches",
    "concurrency",
    "time_limit",
)
_SAME_MEMORY = 0.02  # of the machine's: a restart may take or give a little


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may not be crossed; None is not looked at.

    Attributes:
        max_slowdown: share that pictures may take longer than the baseline's.
        max_memory_growth: share that the peak may be larger than the baseline's.
        min_psnr: dB, of the worst picture against the reference.
        min_ssim: of the worst picture against the reference.
        other_machine: hold against a baseline of another machine, which is then said.
    """

    max_slowdown: float | None = None
    max_memory_growth: float | None = None
    min_psnr: float | None = None
    min_ssim: float | None = None
    other_machine: bool = False


@dataclass(frozen=True)
class Finding:
    """One thing that was held against a limit, in words."""

    words: str
    failed: bool
    in_doubt: bool = False  # further turns may turn it round


def check_baseline(baseline: Results, settings: Settings, here: Machine, yardstick: str, limits: Limits) -> list[str]:
    """See that a trial of these settings can be compared with a baseline; returns what is to be said of it.

    Raises:
        InputError: the baseline is of another model, other settings, other contestants or another machine.
    """
    asked = unlike(baseline.settings, settings, but=_FREE)
    if asked:
        raise InputError(f"the baseline is of other settings: {'; '.join(asked)}. Give those, or measure it again")
    there, ours = _ours(baseline.contestants), _ours(settings.contestants)
    missing = sorted(there ^ ours)
    if missing:
        where = "the baseline" if missing[0] in ours else "this run"
        raise InputError(
            f"the baseline is of other contestants: {where} has no {missing[0]}; give the same --engine and --precision"
        )
    machine = unlike(baseline.machine, here, but=("memory",))
    if abs(here.memory / baseline.machine.memory - 1) > _SAME_MEMORY:
        machine.append(f"memory was {baseline.machine.memory / 1e9:.1f} GB, now {here.memory / 1e9:.1f} GB")
    if machine and not limits.other_machine:
        raise InputError(
            f"the baseline is of another machine: {'; '.join(machine)}. Measure it again here, or compare all the same "
            "with --other-machine"
        )
    notes = [f"another machine: {'; '.join(machine)}"] if machine else []
    if baseline.yardstick != yardstick:
        notes.append(
            f"the yardstick was {baseline.yardstick}, now {yardstick}: times are compared as they are, so that a "
            "drift of the machine counts too"
        )
    return notes


def judge(baseline: Results | None, now: Results, limits: Limits) -> list[Finding]:
    """Hold every contestant of ours against the limits; `baseline` was checked."""
    found = []
    for name in sorted(_ours(now.contestants)):
        contestant = now.contestants[name]
        before = None if baseline is None else baseline.contestants[name]
        found += [Finding(f"{name} failed: {contestant.reason}", True)] if contestant.state == "failed" else []
        found += _accuracy(name, contestant, limits)
        if baseline is not None and before is not None and contestant.latency and before.latency:
            pictures = (baseline.settings.pictures, now.settings.pictures)
            shares = slowdown(before, contestant, pictures, relative=baseline.yardstick == now.yardstick)
            found += _slowdown(name, shares, limits, _where(before, contestant))
        if before is not None:
            found += _memory(name, before, contestant, limits)
    return found


def undecided(findings: Iterable[Finding]) -> bool:
    """Whether further turns may turn the verdict round: something is in doubt, and nothing else failed already."""
    found = list(findings)
    return any(one.in_doubt for one in found) and not any(one.failed and not one.in_doubt for one in found)


def _ours(contestants: Iterable[str]) -> set[str]:
    return {name for name in contestants if name.partition(":")[0] == OURS}


def _accuracy(name: str, contestant: Contestant, limits: Limits) -> Iterator[Finding]:
    asked: tuple[tuple[Metric, float | None, str], ...] = (
        ("PSNR, dB", limits.min_psnr, "PSNR {:.2f} dB"),
        ("SSIM", limits.min_ssim, "SSIM {:.4f}"),
    )
    accuracy = contestant.accuracy
    picture = None if accuracy is None else accuracy.picture
    for metric, least, shown in asked:
        if least is None:
            continue
        if accuracy is None or picture is None or metric not in picture:
            why = f": {accuracy.note}" if accuracy is not None and accuracy.note else ""
            yield Finding(f"{name} has no picture to compare, of which {shown.format(least)} was asked{why}", True)
            continue
        worst = picture[metric].worst
        words = f"{name}'s worst picture has {shown.format(worst)} against {accuracy.reference}"
        yield Finding(f"{words}, limit {shown.format(least).partition(' ')[2]}", worst < least)


def _slowdown(name: str, shares: Slowdown | None, limits: Limits, where: str) -> Iterator[Finding]:
    most = limits.max_slowdown
    if most is None:
        return
    if shares is None:
        quiet = f"too few pictures were drawn while others took less than {MOST_OTHERS} of a core"
        words = f"{name}'s slowdown is undecided: {quiet}, here or in the baseline, and no processor time was told"
        yield Finding(words, failed=False, in_doubt=True)
        return
    slower = shares.share > most
    # processor time is not quite free of what others do to caches and cores: there the whole interval must be above
    sure_of_it = shares.low > most if shares.by_processor else shares.beyond_noise
    beyond = "beyond the noise of both runs" if sure_of_it else "within the noise of both runs"
    sure = f"95 % interval {shares.low:+.1%} to {shares.high:+.1%}"
    by = " by processor time, as others disturbed the clock," if shares.by_processor else ""
    words = f"{name} is{by} {told(shares.share)} than the baseline ({sure}), limit {most:.1%}"
    yield Finding(
        f"{words}: {beyond}{where}" if slower else words,
        failed=slower and sure_of_it,
        in_doubt=shares.low < most < shares.high,
    )


def _memory(name: str, before: Contestant, now: Contestant, limits: Limits) -> Iterator[Finding]:
    most = limits.max_memory_growth
    if most is None or before.memory is None or now.memory is None:
        return
    pairs = [("peak memory", before.memory.rss, now.memory.rss)]
    if before.memory.gpu is not None and now.memory.gpu is not None:
        pairs.append(("GPU memory", before.memory.gpu, now.memory.gpu))
    for what, then, here in pairs:
        growth = here / then - 1
        sizes = f"{then / 1e6:.0f} MB before, {here / 1e6:.0f} MB now"
        yield Finding(f"{name}'s {what} is {growth:+.1%} ({sizes}), limit {most:.1%}", growth > most)


def _where(before: Contestant, now: Contestant) -> str:
    """Which network took the larger part of it."""
    common = before.parts.keys() & now.parts.keys()
    added = {name: now.parts[name] - before.parts[name] for name in common if before.parts[name] > 0}
    if not added:
        return ""
    most = max(added, key=lambda name: added[name])
    return f"; its {most} by {added[most] / before.parts[most]:+.1%} as the clock has it" if added[most] > 0 else ""
