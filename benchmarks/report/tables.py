"""The tables of a report, as text in cells: what Markdown and HTML both show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..trial.accuracy import error_over_floor
from ..trial.results import PROMPT_TO_PNG, Accuracy, Compared, Contestant, Metric, Results, Scope, Timing
from . import words
from .words import NONE, time_unit

METRICS: tuple[Metric, ...] = ("PSNR, dB", "SSIM", "max abs", "relative L2", "cosine")


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first cell of a row says what the row is about."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    numeric: bool = True  # all but the first column


def ordered(results: Results) -> Iterator[tuple[str, Contestant]]:
    """The contestants in the order in which they took turns; those that the settings do not name come last."""
    names = [name for name in results.settings.contestants if name in results.contestants]
    for name in [*names, *(name for name in results.contestants if name not in names)]:
        yield name, results.contestants[name]


def overview(results: Results) -> Table:
    """One row for each contestant: what most readers came for."""
    timings = {name: _main_timing(one) for name, one in ordered(results)}
    unit = time_unit(timing.p50 for timing in timings.values() if timing)
    first = next(((name, timing) for name, timing in timings.items() if timing), None)
    qualities = _quality_names(results)
    head = (
        "contestant",
        f"picture, {unit.name}",
        "95 % interval",
        "ratio" if first is None else f"over {first[0]}",
        "peak memory",
        "error over the floor",
        *qualities,
    )
    rows = []
    for name, one in ordered(results):
        timing = timings[name]
        ratio = words.digits(timing.p50 / first[1].p50) if timing and first else NONE
        shown = unit.number(timing.p50) if timing else ("failed" if one.state == "failed" else NONE)
        rows.append(
            (
                name,
                shown,
                _interval(unit, timing),
                ratio,
                words.size(one.memory.rss if one.memory else None),
                _over_floor(results, name, lambda accuracy: accuracy.latents or accuracy.picture),
                *(_quality(one, quality) for quality in qualities),
            )
        )
    note = f"Median of '{PROMPT_TO_PNG}', warm. {_floor_words(results)}"
    return Table("At a glance", head, tuple(rows), note)


def failures(results: Results) -> Table | None:
    """Who could not be measured, and why."""
    rows = [(name, one.reason or "no reason was given") for name, one in ordered(results) if one.state == "failed"]
    return Table("Not measured", ("contestant", "reason"), tuple(rows), numeric=False) if rows else None


def latency(results: Results, scope: Scope) -> Table | None:
    """Warm latency of a whole picture in one scope."""
    timings = [(name, one.latency[scope]) for name, one in ordered(results) if scope in one.latency]
    return _timing_table(f"Latency, {scope}", timings, "samples")


def starts(results: Results) -> Table | None:
    """Opening, and cold start."""
    rows: list[tuple[str, ...]] = []
    unit = time_unit(t.p50 for _, one in ordered(results) for t in (one.opening, one.cold_start) if t)
    for name, one in ordered(results):
        if one.opening or one.cold_start:
            shown = [cell for t in (one.opening, one.cold_start) for cell in (_p50(unit, t), _interval(unit, t))]
            rows.append((name, *shown))
    head = ("contestant", f"opening, {unit.name}", "95 % interval", f"cold start, {unit.name}", "95 % interval")
    note = "Opening: a started process until it is ready for a prompt. Cold start: process start to first picture."
    return Table("Start", head, tuple(rows), note) if rows else None


def components(results: Results) -> Table | None:
    """One call of each network, and how much of a picture they take."""
    names = _in_order(component for _, one in ordered(results) for component in one.components)
    measured = [(name, one) for name, one in ordered(results) if one.components or one.inside is not None]
    if not measured:
        return None
    unit = time_unit(t.p50 for _, one in measured for t in one.components.values())
    rows = []
    for name, one in measured:
        calls = (_p50(unit, one.components.get(component)) for component in names)
        rows.append((name, *calls, NONE if one.inside is None else words.share(one.inside)))
    head = ("contestant", *(f"{name}, {unit.name}" for name in names), "of a picture inside networks")
    return Table("One call of each network", head, tuple(rows), "Median, warm.")


def memory(results: Results) -> Table | None:
    """Memory and disk."""
    rows = []
    for name, one in ordered(results):
        rss, gpu = (one.memory.rss, one.memory.gpu) if one.memory else (None, None)
        installed = one.environment.installed
        if any(found is not None for found in (rss, gpu, one.files, installed)):
            rows.append((name, *(words.size(count) for count in (rss, gpu, one.files, installed))))
    head = ("contestant", "peak RSS", "GPU peak", "model on disk", "installed environment")
    note = "Peak RSS counts the pages of mapped files that were read."
    return Table("Memory and disk", head, tuple(rows), note) if rows else None


def accuracy(results: Results, part: str) -> Table | None:
    """Figures of the "picture" or the final "latents", the middle and the worst over the prompts."""
    found: list[tuple[str, Compared]] = []
    for name, one in ordered(results):
        compared = getattr(one.accuracy, part) if one.accuracy else None
        if compared:
            found.append((name, compared))
    if not found:
        return None
    metrics = [metric for metric in METRICS if any(metric in compared for _, compared in found)]
    rows = []
    for name, compared in found:
        cells = [cell for metric in metrics for cell in _spread(compared, metric)]
        over = _over_floor(results, name, lambda accuracy: getattr(accuracy, part))
        rows.append((_marked(results, name), *cells, over))
    head = ("contestant", *(f"{m}, {which}" for m in metrics for which in ("p50", "worst")), "worst L2 over the floor")
    title = {"picture": "Accuracy of the picture", "latents": "Accuracy of the final latents"}[part]
    return Table(title, head, tuple(rows), f"{_reference_words(results)} {_floor_words(results)}")


def component_accuracy(results: Results) -> Table | None:
    """Relative L2 of one call of each network."""
    accuracies = [(name, one.accuracy) for name, one in ordered(results) if one.accuracy and one.accuracy.components]
    if not accuracies:
        return None
    parts = _in_order(part for _, found in accuracies for part in found.components)
    rows = []
    for name, found in accuracies:
        cells = []
        for part in parts:
            compared = found.components.get(part, {})
            cells.append(_spread(compared, "relative L2")[1])
            cells.append(_over_floor(results, name, lambda accuracy, part=part: accuracy.components.get(part)))
        rows.append((_marked(results, name), *cells))
    head = ("contestant", *(f"{part}, {which}" for part in parts for which in ("relative L2", "over the floor")))
    return Table("Accuracy of one call of each network", head, tuple(rows), _floor_words(results))


def step_accuracy(results: Results) -> Table | None:
    """Worst relative L2 after each step, a row for each step."""
    found = [(name, one.accuracy.steps) for name, one in ordered(results) if one.accuracy and one.accuracy.steps]
    if not found:
        return None
    rows = []
    for step in range(max(len(steps) for _, steps in found)):
        cells = (_spread(steps[step], "relative L2")[1] if step < len(steps) else NONE for _, steps in found)
        rows.append((str(step + 1), *cells))
    head = ("step", *(_marked(results, name) for name, _ in found))
    return Table("Error after each step", head, tuple(rows), "Relative L2 of the latents, the worst over the prompts.")


def accuracy_notes(results: Results) -> Table | None:
    """What could not be compared, and other remarks."""
    rows = []
    for name, one in ordered(results):
        said = [one.accuracy.note] if one.accuracy and one.accuracy.note else []
        rows += [(name, remark) for remark in (*said, *one.notes)]
    return Table("Remarks", ("contestant", "remark"), tuple(rows), numeric=False) if rows else None


def quality(results: Results) -> Table | None:
    """Figures of the pictures themselves."""
    names = _quality_names(results)
    rows = [(name, *(_quality(one, key) for key in names)) for name, one in ordered(results) if one.quality]
    return Table("Quality of the pictures", ("contestant", *names), tuple(rows)) if rows else None


def batches(results: Results) -> Table | None:
    """Pictures a second by pictures drawn at once."""
    return _curve(results, "Batch curve", "pictures at once", "batches")


def concurrency(results: Results) -> Table | None:
    """Pictures a second by clients, and how long they wait."""
    return _curve(results, "Concurrency curve", "clients", "concurrency")


def _curve(results: Results, title: str, what: str, field: str) -> Table | None:
    rows = []
    for name, one in ordered(results):
        for point in getattr(one, field):
            rate, waited = point.pictures_per_second, point.latency
            interval = f"{words.digits(rate.low)} to {words.digits(rate.high)}"
            waits = (NONE, NONE) if waited is None else (words.digits(waited.p50), words.digits(waited.p99))
            rows.append((name, str(point.count), words.digits(rate.p50), interval, *waits))
    head = ("contestant", what, "pictures/s", "95 % interval", "p50 of a request, s", "p99, s")
    if rows and all(row[4:] == (NONE, NONE) for row in rows):
        head, rows = head[:4], [row[:4] for row in rows]
    return Table(title, head, tuple(rows)) if rows else None


def _timing_table(title: str, timings: list[tuple[str, Timing]], count: str) -> Table | None:
    if not timings:
        return None
    unit = time_unit(timing.p50 for _, timing in timings)
    first_name, first = timings[0]
    rows = []
    for name, timing in timings:
        numbers = (unit.number(seconds) for seconds in (timing.p90, timing.p99))
        ratio = words.digits(timing.p50 / first.p50)
        rows.append((name, unit.number(timing.p50), _interval(unit, timing), *numbers, ratio, str(len(timing.samples))))
    head = ("contestant", f"p50, {unit.name}", "95 % interval", "p90", "p99", f"p50 over {first_name}", count)
    return Table(title, head, tuple(rows), "The interval is that of the median, by bootstrap.")


def _main_timing(one: Contestant) -> Timing | None:
    return one.latency.get(PROMPT_TO_PNG)


def _interval(unit: words.Unit, timing: Timing | None) -> str:
    return NONE if timing is None else f"{unit.number(timing.low)} to {unit.number(timing.high)}"


def _p50(unit: words.Unit, timing: Timing | None) -> str:
    return NONE if timing is None else unit.number(timing.p50)


def _spread(compared: Compared, metric: Metric) -> tuple[str, str]:
    found = compared.get(metric)
    return (NONE, NONE) if found is None else (words.metric(metric, found.p50), words.metric(metric, found.worst))


def _over_floor(results: Results, name: str, part: Callable[[Accuracy], Compared | None]) -> str:
    """An error in noise floors, both at their worst over the prompts."""
    if name == results.floor:
        return "1 (the floor)" if results.contestants[name].accuracy else NONE
    floor = results.contestants.get(results.floor or "")
    ours = results.contestants[name].accuracy
    if ours is None or floor is None or floor.accuracy is None:
        return NONE
    over = error_over_floor(part(ours), part(floor.accuracy))
    return NONE if over is None else words.digits(over, 2) if over >= 1e-3 else f"{over:.0e}"


def _marked(results: Results, name: str) -> str:
    return f"{name} (the noise floor)" if name == results.floor else name


def reference_name(results: Results) -> str | None:
    """What accuracy was measured against."""
    return next((one.accuracy.reference for _, one in ordered(results) if one.accuracy), None)


def _reference_words(results: Results) -> str:
    name = reference_name(results)
    return f"Against {'the answers that the bundle records' if name == 'golden' else name}, from the same start noise."


def _floor_words(results: Results) -> str:
    if results.floor is None or not (
        (floor := results.contestants.get(results.floor)) and floor.accuracy and (floor.accuracy.latents)
    ):
        return "No noise floor was measured."
    return f"The noise floor is the distance of {results.floor} from {reference_name(results)}."


def _quality_names(results: Results) -> list[str]:
    return _in_order(key for _, one in ordered(results) for key in one.quality)


def _quality(one: Contestant, key: str) -> str:
    value = one.quality.get(key)
    if value is None:
        return NONE
    return words.share(value) if key.startswith("adherence") else words.digits(value, 4)


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
