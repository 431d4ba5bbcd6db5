"""The tables of latency, memory and quality, and the one that sums a trial up: for Markdown and HTML alike."""

from __future__ import annotations

from ..trial.plan import VAE_DECODER
from ..trial.results import DENOISE_DECODE, PROMPT_TO_PNG, Contestant, Point, Results, Scope, Timing
from . import words
from .accuracy_tables import floor_words, over_floor
from .table import Table, in_order, ordered, picture_unit
from .words import NONE, time_unit


def overview(results: Results) -> Table:
    """One row for each contestant: what most readers came for."""
    timings = {name: _main_timing(one) for name, one in ordered(results)}
    unit = picture_unit(results)
    first = next(((name, timing) for name, timing in timings.items() if timing), None)
    qualities = quality_names(results)
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
                interval_words(unit, timing),
                ratio,
                words.size(one.memory.rss if one.memory else None),
                over_floor(results, name, lambda accuracy: accuracy.latents or accuracy.picture),
                *(quality_words(one, quality) for quality in qualities),
            )
        )
    note = f"Median of '{PROMPT_TO_PNG}', warm. {floor_words(results)}"
    return Table("At a glance", head, tuple(rows), note)


def failures(results: Results) -> Table | None:
    """Who could not be measured, and why."""
    rows = [(name, one.reason or "no reason was given") for name, one in ordered(results) if one.state == "failed"]
    return Table("Not measured", ("contestant", "reason"), tuple(rows), numeric=False) if rows else None


def latency(results: Results, scope: Scope) -> Table | None:
    """Warm latency of a whole picture in one scope."""
    timings = [(name, one.latency[scope]) for name, one in ordered(results) if scope in one.latency]
    if not timings:
        return None
    unit = picture_unit(results)
    first_name, first = timings[0]
    rows = []
    for name, timing in timings:
        numbers = (unit.number(seconds) for seconds in (timing.p90, timing.p99))
        ratio = words.digits(timing.p50 / first.p50)
        rate = steps_per_second(results, name) if scope == DENOISE_DECODE else None
        shown = (NONE if rate is None else words.digits(rate),) if scope == DENOISE_DECODE else ()
        number = str(len(timing.samples))
        rows.append((name, unit.number(timing.p50), interval_words(unit, timing), *numbers, ratio, *shown, number))
    rates = ("steps/s",) if scope == DENOISE_DECODE else ()
    head = ("contestant", f"p50, {unit.name}", "95 % interval", "p90", "p99", f"p50 over {first_name}", *rates)
    note = "The interval is that of the median, by bootstrap."
    told = f"{note} Steps a second: without the decoder." if rates else note
    return Table(f"Latency, {scope}", (*head, "samples"), tuple(rows), told)


def steps_per_second(results: Results, name: str) -> float | None:
    """Of denoising alone: `denoise+decode` without the decoder's calls, medians; None where one is unknown."""
    one = results.contestants[name]
    whole, decoder = one.latency.get(DENOISE_DECODE), one.parts.get(VAE_DECODER)
    if whole is None or decoder is None or whole.p50 <= decoder:
        return None
    return results.settings.num_inference_steps / (whole.p50 - decoder)


def starts(results: Results) -> Table | None:
    """Opening, and cold start."""
    rows: list[tuple[str, ...]] = []
    unit = time_unit(t.p50 for _, one in ordered(results) for t in (one.opening, one.cold_start) if t)
    for name, one in ordered(results):
        if one.opening or one.cold_start:
            shown = [cell for t in (one.opening, one.cold_start) for cell in (_p50(unit, t), interval_words(unit, t))]
            rows.append((name, *shown))
    head = ("contestant", f"opening, {unit.name}", "95 % interval", f"cold start, {unit.name}", "95 % interval")
    note = "Opening: a started process until it is ready for a prompt. Cold start: process start to first picture."
    return Table("Start", head, tuple(rows), note) if rows else None


def components(results: Results) -> Table | None:
    """One call of each network, and how much of a picture they take."""
    names = in_order(component for _, one in ordered(results) for component in one.components)
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


def quality(results: Results) -> Table | None:
    """Figures of the pictures themselves."""
    names = quality_names(results)
    rows = [(name, *(quality_words(one, key) for key in names)) for name, one in ordered(results) if one.quality]
    return Table("Quality of the pictures", ("contestant", *names), tuple(rows)) if rows else None


def batches(results: Results) -> Table | None:
    """Pictures a second by pictures drawn at once."""
    return _curve(results, "Batch curve", "pictures at once", "batches")


def concurrency(results: Results) -> Table | None:
    """Pictures a second by clients, and how long they wait."""
    return _curve(results, "Concurrency curve", "clients", "concurrency")


def _curve(results: Results, title: str, what: str, field: str) -> Table | None:
    points: list[tuple[str, Point]] = [(name, point) for name, one in ordered(results) for point in getattr(one, field)]
    waits = any(point.latency for _, point in points)
    head = ("contestant", what, "pictures/s", "95 % interval", *(("p50 of a request, s", "p99, s") if waits else ()))
    rows = []
    for name, point in points:
        rate, waited = point.pictures_per_second, point.latency
        interval = f"{words.digits(rate.low)} to {words.digits(rate.high)}"
        waiting = (NONE, NONE) if waited is None else (words.digits(waited.p50), words.digits(waited.p99))
        rows.append((name, str(point.count), words.digits(rate.p50), interval, *(waiting if waits else ())))
    return Table(title, head, tuple(rows)) if rows else None


def _main_timing(one: Contestant) -> Timing | None:
    return one.latency.get(PROMPT_TO_PNG)


def interval_words(unit: words.Unit, timing: Timing | None) -> str:
    """The median's interval; a single sample has none."""
    if timing is None or len(timing.samples) == 1:
        return NONE
    return f"{unit.number(timing.low)} to {unit.number(timing.high)}"


def _p50(unit: words.Unit, timing: Timing | None) -> str:
    return NONE if timing is None else unit.number(timing.p50)


def quality_names(results: Results) -> list[str]:
    """The figures of quality that anyone has."""
    return in_order(key for _, one in ordered(results) for key in one.quality)


def quality_words(one: Contestant, key: str) -> str:
    """One figure of quality."""
    value = one.quality.get(key)
    if value is None:
        return NONE
    return words.share(value) if key.startswith("adherence") else words.digits(value, 4)
