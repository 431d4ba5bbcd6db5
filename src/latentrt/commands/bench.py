"""`latentrt bench`: a trial with a bar, its results and report, and the gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from latentrt.benchmarks.report import write_report
from latentrt.benchmarks.trial import yardstick
from latentrt.benchmarks.trial.choose import Counts, Wishes, choose_settings
from latentrt.benchmarks.trial.contender import Contender
from latentrt.benchmarks.trial.field import Places, field, source_hash
from latentrt.benchmarks.trial.gate import FURTHER, Finding, Limits, check_baseline, judge, undecided
from latentrt.benchmarks.trial.here import this_machine
from latentrt.benchmarks.trial.measure import RESULTS, measure
from latentrt.benchmarks.trial.progress import Progress
from latentrt.benchmarks.trial.results import Machine, Results, Settings, read_results
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import CheckFailedError

from .printing import one_line


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user asks for, read from the command line.

    Attributes:
        baseline: a results.json that the run is held against.
    """

    contestants: tuple[str, ...]
    wishes: Wishes
    counts: Counts
    places: Places
    batches: tuple[int, ...]
    concurrency: tuple[int, ...]
    time_limit: float
    output: Path
    fresh: bool
    baseline: Path | None
    limits: Limits


def bench_command(console: Console, asked: Asked) -> None:
    """Measure, write, print where the report is, and fail where a limit is crossed."""
    bundle = Bundle.open(asked.places.bundle)
    source = asked.places.source
    settings = choose_settings(
        bundle,
        asked.contestants,
        asked.wishes,
        asked.counts,
        source=None if source is None else source_hash(source, bundle),
        batches=asked.batches,
        concurrency=asked.concurrency,
        threads=asked.places.threads,
        time_limit=asked.time_limit,
    )
    contenders = field(asked.contestants, asked.places)
    gate = _Gate(None if asked.baseline is None else read_results(asked.baseline), asked.limits)
    gate.check(console, settings, this_machine(), yardstick.told())
    results = _measure(console, bundle, settings, contenders, asked, gate)
    for file in (asked.output / RESULTS, *write_report(results, asked.output)):
        print(file)
    for line in results.conditions.noisy:
        console.print(f"noisy: {one_line(line)}", markup=False)
    gate.decide(console, results)


class _Gate:
    """The limits, and the baseline that some of them are about."""

    def __init__(self, baseline: Results | None, limits: Limits) -> None:
        self._baseline, self._limits = baseline, limits

    def check(self, console: Console, settings: Settings, machine: Machine, work: str) -> None:
        """See that the baseline is one to compare with, before anything is measured."""
        if self._baseline is None:
            return
        for line in check_baseline(self._baseline, settings, machine, work, self._limits):
            console.print(f"note: {one_line(line)}", markup=False)

    def in_doubt(self, results: Results) -> bool:
        """Whether more turns may turn the verdict round."""
        return undecided(self._judge(results))

    def decide(self, console: Console, results: Results) -> None:
        """Say what was found; raises CheckFailedError where something regressed."""
        found = self._judge(results)
        for finding in found:
            console.print(f"{'FAILED' if finding.failed else 'ok'}: {one_line(finding.words)}", markup=False)
        failed = [finding for finding in found if finding.failed]
        if failed:
            raise CheckFailedError("; ".join(finding.words for finding in failed))

    def _judge(self, results: Results) -> list[Finding]:
        return judge(self._baseline, results, self._limits)


def _measure(
    console: Console,
    bundle: Bundle,
    settings: Settings,
    contenders: Sequence[Contender],
    asked: Asked,
    gate: _Gate,
) -> Results:
    try:
        with _bar(console) as bar:
            return measure(
                bundle,
                settings,
                contenders,
                asked.output,
                bar,
                fresh=asked.fresh,
                doubt=gate.in_doubt,
                most_rounds=FURTHER * settings.rounds,
            )
    except KeyboardInterrupt:
        console.print(f"what was measured is in {one_line(str(asked.output))}: the same command goes on", markup=False)
        raise


class _Bar:
    """A trial's progress on the console; where that is no terminal, a line for each thing that stays to be read."""

    def __init__(self, console: Console, progress: RichProgress) -> None:
        self._console, self._progress = console, progress
        self._task = progress.add_task("", total=None)

    def expect(self, tasks: int) -> None:
        self._progress.update(self._task, total=tasks, completed=0)

    def doing(self, words: str) -> None:
        self._progress.update(self._task, description=one_line(words))

    def done(self, tasks: int = 1) -> None:
        self._progress.advance(self._task, tasks)

    def say(self, line: str) -> None:
        self._console.print(one_line(line), markup=False)


@contextmanager
def _bar(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield _Bar(console, progress)
