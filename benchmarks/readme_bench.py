"""A trial's results as a block of the README: who, how fast, in how much memory, how far from PyTorch."""

from __future__ import annotations

from collections.abc import Callable

from .report import protocol, words
from .report.accuracy_tables import floor_words, over_floor
from .report.markdown import escaped, rows
from .report.table import Table, ordered
from .report.tables import interval_words, quality_names, quality_words
from .report.words import NONE, time_unit
from .trial.results import PROMPT_TO_PNG, Contestant, Metric, Point, Results, Timing

RATIO_TO = "torch"
_ERROR: Metric = "relative L2"


def bench_block(results: Results, file: str) -> str:
    """The table, who failed and why, and what it is of."""
    lost = [(name, one.reason or "no reason was given") for name, one in ordered(results) if one.state == "failed"]
    failed = [f"`{name}` was not measured: {escaped(reason)}" for name, reason in lost]
    return "\n\n".join([rows(table(results)), *failed, f"<sub>{_note(results, file)}</sub>"])


def curves_block(results: Results, file: str) -> str:
    """The batch and the concurrency curve, one row for each count: pictures a second of each contestant."""
    found = (curve(results, "pictures at once", "batches"), curve(results, "clients", "concurrency"))
    said = [
        f"`{file}`, by `latentrt bench`.",
        f"{protocol.heading(results)}. Pictures a second, medians; behind a slash p99 of a request, s.",
        *_conditions(results),
    ]
    return "\n\n".join([*(rows(one) for one in found if one is not None), f"<sub>{_escaped(said)}</sub>"])


def curve(results: Results, what: str, field: str) -> Table | None:
    """One of the two curves; None where none was measured."""
    points: dict[str, dict[int, Point]] = {
        name: {point.count: point for point in getattr(one, field)} for name, one in ordered(results)
    }
    names = [name for name, found in points.items() if found]
    counts = sorted({count for found in points.values() for count in found})
    lines = [(str(count), *(_point(points[name].get(count)) for name in names)) for count in counts]
    return Table("", (what, *names), tuple(lines)) if lines else None


def _point(point: Point | None) -> str:
    if point is None:
        return NONE
    rate = words.digits(point.pictures_per_second.p50)
    return rate if point.latency is None else f"{rate} / {words.digits(point.latency.p99)}"


def table(results: Results) -> Table:
    """One row for each contestant that was measured, and only columns that somebody has a figure for."""
    measured = [(name, one) for name, one in ordered(results) if one.state == "measured"]
    columns: list[tuple[str, list[str]]] = [("contestant", [name for name, _ in measured])]
    torch = results.contestants.get(RATIO_TO)
    columns += _timed(
        f"picture of {words.counted(results.settings.num_inference_steps, 'step')}",
        [_picture(one) for _, one in measured],
        _picture(torch) if torch else None,
        interval=True,
    )
    for head, part in (("UNet call", "unet"), ("VAE decode", "vae_decoder")):
        base = torch.components.get(part) if torch else None
        columns += _timed(head, [one.components.get(part) for _, one in measured], base)
    for head, of in (("peak memory", _peak), ("installed", lambda one: one.environment.installed)):
        columns.append((head, [words.size(of(one)) for _, one in measured]))
    columns.append((f"error, {_ERROR}", [_error(one) for _, one in measured]))
    columns.append(("over the floor", [_over(results, name) for name, _ in measured]))
    columns += [(quality, [quality_words(one, quality) for _, one in measured]) for quality in quality_names(results)]
    kept = [(head, cells) for head, cells in columns if any(cell != NONE for cell in cells)]
    heads, cells = [head for head, _ in kept], [column for _, column in kept]
    return Table("", tuple(heads), tuple(zip(*cells, strict=True)))


def _timed(
    what: str, timings: list[Timing | None], base: Timing | None, *, interval: bool = False
) -> list[tuple[str, list[str]]]:
    """Medians, their intervals where asked for, and their ratios to `base` where there is one."""
    unit = time_unit(timing.p50 for timing in timings if timing)
    cells: dict[str, Callable[[Timing], str]] = {f"{what}, {unit.name}": lambda timing: unit.number(timing.p50)}
    if interval:
        cells["95 % interval"] = lambda timing: interval_words(unit, timing)
    if base is not None:
        cells[f"of {RATIO_TO}"] = lambda timing: words.digits(timing.p50 / base.p50)
    return [(head, [NONE if timing is None else cell(timing) for timing in timings]) for head, cell in cells.items()]


def _picture(one: Contestant) -> Timing | None:
    return one.latency.get(PROMPT_TO_PNG)


def _peak(one: Contestant) -> int | None:
    return one.memory.rss if one.memory else None


def _error(one: Contestant) -> str:
    if one.accuracy is None:
        return NONE
    found = one.accuracy.latents or one.accuracy.components.get("unet", {})
    return words.metric(_ERROR, found[_ERROR].worst) if _ERROR in found else NONE


def _over(results: Results, name: str) -> str:
    return over_floor(results, name, lambda accuracy: accuracy.latents or accuracy.components.get("unet"))


def _note(results: Results, file: str) -> str:
    said = [
        f"`{file}`, by `latentrt bench`.",
        f"{protocol.heading(results)}; medians of '{PROMPT_TO_PNG}', warm, with their 95 % intervals by bootstrap.",
        "Error: of the final latents from the same start noise, or where none were drawn of a UNet call; the worst.",
        floor_words(results),
        *_conditions(results),
    ]
    return _escaped(said)


def _conditions(results: Results) -> list[str]:
    found, meanwhile = results.machine, results.conditions
    noisy = ["This run was noisy: " + "; ".join(meanwhile.noisy) + "."] if meanwhile.noisy else []
    return [
        f"{found.processor}, {found.cores} cores, {words.size(found.memory)}.",
        f"Other processes took {meanwhile.others:.2f} cores meanwhile.",
        *noisy,
    ]


def _escaped(said: list[str]) -> str:
    return escaped(" ".join(said)).replace("\\`", "`")
