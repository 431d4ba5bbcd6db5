"""The figures of a report, as SVG elements: every sample visible, names beside what they name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ..trial.results import PROMPT_TO_PNG, Contestant, Point, Results, Scope, Timing
from .svg import INK, MARKERS, PAGE, QUIET, RULE, SERIES, render, style
from .table import ordered, picture_unit
from .words import Unit, digits

WIDTH = 5.0  # inches: 360 points, which a telephone shows as they are and a desktop half as large again
_WIDE = 15.0  # slowest over fastest from which a linear axis would squeeze the fast ones into a line
_PARTS = {"text_encoder": "text encoder", "unet": "UNet", "vae_decoder": "VAE decoder"}
_REST = "everything else"


@dataclass(frozen=True)
class Plot:
    """A figure, what is read aloud in its place, and what is written below it."""

    name: str
    svg: str
    caption: str


def plots(results: Results) -> dict[str, Plot]:
    """Every figure that this trial has samples for, by name."""
    found = (
        latency(results, PROMPT_TO_PNG, "latency"),
        latency(results, "denoise+decode", "latency-loop"),
        stacked(results),
        curve(results, "batches", "pictures drawn at once"),
        curve(results, "concurrency", "clients that ask again when they are answered"),
        waiting(results),
        error_per_step(results),
    )
    return {plot.name: plot for plot in found if plot is not None}


def colour_of(results: Results, name: str) -> tuple[str, str]:
    """Colour and marker of a contestant, the same in all figures."""
    index = [known for known, _ in ordered(results)].index(name)
    return SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]


def latency(results: Results, scope: Scope, name: str) -> Plot | None:
    """A strip for each contestant: every sample as a dot, the median as a line in its 95 % interval."""
    timings = [(who, one.latency[scope]) for who, one in ordered(results) if scope in one.latency]
    if not timings:
        return None
    unit = picture_unit(results)
    with style(name):
        figure = Figure(figsize=(WIDTH, 0.75 + 0.62 * len(timings)), layout="constrained")
        axes = figure.subplots()
        for row, (who, timing) in enumerate(timings):
            _strip(axes, row, who, timing, unit, colour_of(results, who)[0])
        axes.set_ylim(len(timings) - 0.45, -0.75)
        _time_axis(axes, [sample * unit.factor for _, timing in timings for sample in timing.samples])
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{unit.name}, {scope}")
        said = "; ".join(f"{who} {unit.number(timing.p50)} {unit.name}" for who, timing in timings)
        svg = render(figure, name, f"Latency of a warm picture, {scope}. Medians: {said}.")
    caption = (
        "Every counted picture is a dot, spread upwards in the order in which they were taken; the upright line is the "
        "median, the bar its 95 % interval."
    )
    return Plot(name, svg, caption)


def _strip(axes: Axes, row: int, who: str, timing: Timing, unit: Unit, colour: str) -> None:
    samples = np.array(timing.samples) * unit.factor
    heights = row + 0.17 - 0.34 * np.arange(len(samples)) / max(1, len(samples) - 1)
    axes.barh(row, (timing.high - timing.low) * unit.factor, 0.42, timing.low * unit.factor, color=colour, alpha=0.22)
    axes.scatter(samples, heights, s=11, color=colour, alpha=0.75, linewidths=0)
    axes.plot([timing.p50 * unit.factor] * 2, [row - 0.24, row + 0.24], color=INK, linewidth=1.4)
    axes.annotate(who, (0, row - 0.3), (2, 1), xycoords=axes.get_yaxis_transform(), textcoords="offset points")
    words, across = f"{unit.number(timing.p50)} {unit.name}", axes.get_yaxis_transform()
    axes.annotate(words, (1, row - 0.3), (-2, 1), across, "offset points", ha="right", color=QUIET)


def _time_axis(axes: Axes, samples: Sequence[float]) -> None:
    """From nothing, so that lengths compare; logarithmic where that would hide the fast ones."""
    if max(samples) / min(samples) <= _WIDE:
        axes.set_xlim(0, max(samples) * 1.03)
        return
    axes.set_xscale("log")
    axes.set_xlim(min(samples) / 1.2, max(samples) * 1.2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: digits(value, 1)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def stacked(results: Results) -> Plot | None:
    """Where the time of a picture goes: a bar for each contestant, a piece for each network, and one for the rest."""
    bars = [(who, one, one.latency[PROMPT_TO_PNG]) for who, one in ordered(results) if _stacks(one)]
    if not bars:
        return None
    unit = picture_unit(results)
    with style("parts"):
        figure = Figure(figsize=(WIDTH, 1.1 + 0.62 * len(bars)), layout="constrained")
        axes = figure.subplots()
        for row, (who, one, timing) in enumerate(bars):
            _bar(axes, row, _pieces(one, timing), unit)
            axes.annotate(who, (0, row - 0.26), (2, 2), xycoords=axes.get_yaxis_transform(), textcoords="offset points")
        axes.set_ylim(len(bars) - 0.45, -0.75)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{unit.name} of one picture")
        handles = [axes.barh(0, 0, color=colour, label=part) for part, colour in _part_colours().items()]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, columnspacing=1.0)
        said = "; ".join(f"{who}: {_said(_pieces(one, timing), unit)}" for who, one, timing in bars)
        svg = render(figure, "parts", f"Time of one picture by component. {said}.")
    caption = "Median time inside each network's calls, and what of the median picture is left beside them."
    return Plot("parts", svg, caption)


def _stacks(one: Contestant) -> bool:
    return bool(one.parts) and PROMPT_TO_PNG in one.latency


def _pieces(one: Contestant, timing: Timing) -> dict[str, float]:
    """Seconds by part, in the order of the loop."""
    known = {words: one.parts[key] for key, words in _PARTS.items() if key in one.parts}
    known |= {key: seconds for key, seconds in one.parts.items() if key not in _PARTS}
    return known | {_REST: max(0.0, timing.p50 - sum(one.parts.values()))}


def _part_colours() -> dict[str, str]:
    return dict(zip((*_PARTS.values(), _REST), (SERIES[2], SERIES[0], SERIES[1], RULE), strict=True))


def _bar(axes: Axes, row: int, pieces: dict[str, float], unit: Unit) -> None:
    colours, start = _part_colours(), 0.0
    for part, seconds in pieces.items():
        length = seconds * unit.factor
        axes.barh(row, length, 0.42, start, color=colours.get(part, QUIET), edgecolor=PAGE, linewidth=0.8)
        start += length


def _said(pieces: dict[str, float], unit: Unit) -> str:
    return ", ".join(f"{part} {unit.number(seconds)} {unit.name}" for part, seconds in pieces.items())


def curve(results: Results, field: str, what: str) -> Plot | None:
    """Pictures a second against how many are asked for at once."""
    lines: list[tuple[str, Sequence[Point]]] = [(who, getattr(one, field)) for who, one in ordered(results)]
    lines = [(who, points) for who, points in lines if points]
    if not lines:
        return None
    with style(field):
        figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
        axes = figure.subplots()
        for who, points in lines:
            _rate(axes, who, points, *colour_of(results, who))
        counts = sorted({point.count for _, points in lines for point in points})
        _count_axis(axes, counts, what)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
        axes.set_ylabel("pictures a second")
        figure.legend(loc="outside upper left", ncols=2)
        svg = render(figure, field, _best(lines, what))
    return Plot(field, svg, f"Pictures a second against {what}; bars are the 95 % interval of the median.")


def _rate(axes: Axes, who: str, points: Sequence[Point], colour: str, marker: str) -> None:
    rates = [point.pictures_per_second for point in points]
    below, above = [rate.p50 - rate.low for rate in rates], [rate.high - rate.p50 for rate in rates]
    counts, middle = [point.count for point in points], [rate.p50 for rate in rates]
    bars = np.maximum([below, above], 0)
    axes.errorbar(counts, middle, bars, color=colour, marker=marker, markeredgecolor=PAGE, capsize=2, label=who)


def _count_axis(axes: Axes, counts: Sequence[int], what: str) -> None:
    if len(counts) > 1 and max(counts) / min(counts) > 4:
        axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(what)


def _best(lines: Sequence[tuple[str, Sequence[Point]]], what: str) -> str:
    best = {who: max(points, key=lambda point: point.pictures_per_second.p50) for who, points in lines}
    said = "; ".join(
        f"{who} at most {digits(point.pictures_per_second.p50)} at {point.count}" for who, point in best.items()
    )
    return f"Pictures a second against {what}: {said}."


def waiting(results: Results) -> Plot | None:
    """How long a client waits, by how many there are."""
    lines = [(who, [point for point in one.concurrency if point.latency]) for who, one in ordered(results)]
    lines = [(who, points) for who, points in lines if points]
    if not lines:
        return None
    with style("waiting"):
        figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
        axes = figure.subplots()
        for who, points in lines:
            colour, marker = colour_of(results, who)
            counts = [point.count for point in points]
            waits = [(point.latency.p50, point.latency.p99) for point in points if point.latency]
            axes.plot(counts, [p50 for p50, _ in waits], color=colour, marker=marker, markeredgecolor=PAGE, label=who)
            axes.plot(counts, [p99 for _, p99 in waits], color=colour, linestyle=(0, (1, 1.5)), linewidth=1.2)
        _count_axis(axes, sorted({point.count for _, points in lines for point in points}), "clients")
        axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
        axes.set_ylabel("seconds of a request")
        figure.legend(loc="outside upper left", ncols=2)
        said = "; ".join(
            f"{who} {digits(points[-1].latency.p50)} s with {points[-1].count}"
            for who, points in lines
            if points[-1].latency
        )
        svg = render(figure, "waiting", f"Seconds that a request takes against clients, medians: {said}.")
    return Plot("waiting", svg, "How long a client waits for its picture: the median, and dotted the 99th percentile.")


def _log_errors(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def error_per_step(results: Results) -> Plot | None:
    """Relative L2 of the latents after each step: the middle and the worst prompt, above the shaded noise floor."""
    lines = [(who, one.accuracy.steps) for who, one in ordered(results) if one.accuracy and one.accuracy.steps]
    drawn = [who for who, steps in lines if any(step["relative L2"].worst > 0 for step in steps)]
    if not drawn:
        return None
    with style("steps"):
        figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
        axes = figure.subplots()
        _log_errors(axes)
        least = min(step["relative L2"].p50 for _, steps in lines for step in steps if step["relative L2"].p50 > 0)
        for who, steps in lines:
            if who not in drawn:
                continue  # equal throughout: a logarithm has no place for it
            numbers = range(1, len(steps) + 1)
            middle, worst = (
                [getattr(step["relative L2"], which) or least for step in steps] for which in ("p50", "worst")
            )
            if who == results.floor:
                axes.fill_between(numbers, [least / 2] * len(steps), worst, color=QUIET, alpha=0.16, linewidth=0)
            colour, marker = colour_of(results, who)
            label = f"{who} (the noise floor)" if who == results.floor else who
            axes.plot(numbers, middle, color=colour, marker=marker, markeredgecolor=PAGE, markersize=4, label=label)
            axes.plot(numbers, worst, color=colour, linestyle=(0, (1, 1.5)), linewidth=1.2)
        low, high = axes.get_ylim()
        axes.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
        axes.set_xlabel("step")
        axes.set_ylabel("relative L2 of the latents")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper left", ncols=2)
        ends = "; ".join(f"{who} {steps[-1]['relative L2'].p50:.1e}" for who, steps in lines)
        svg = render(figure, "steps", f"Error of the latents after each step. After the last: {ends}.")
    equal = [who for who, _ in lines if who not in drawn]
    said = f" {', '.join(equal)}: no difference in any step." if equal else ""
    caption = f"The middle prompt, and dotted the worst; the noise floor's worst is shaded.{said}"
    return Plot("steps", svg, caption)
