"""The picture of `fidelity.json`: error against time, a line for each sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from latentrt.engines.atomic import new_file

from .report.svg import INK, MARKERS, PAGE, QUIET, SERIES, alone, render, style

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "fidelity.svg"
SHOWN = ("euler", "ddim", "heun", "pndm", "deis", "dpmpp_2m", "dpmpp_2m, karras", "unipc")
_LABELLED = (5, 10, 20, 50)  # steps that the line of the first sampler names


def write_plot(figures: dict[str, Any], file: Path = PICTURE) -> None:
    """Draw it into an SVG that is readable on a light page and on a dark one."""
    with new_file(file) as place:
        place.write_text(draw_plot(figures), encoding="utf-8")


def draw_plot(figures: dict[str, Any]) -> str:
    """The SVG."""
    with style("fidelity"):
        figure = Figure(figsize=(8.6, 4.6))
        figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
        axes = figure.subplots()
        for index, name in enumerate(name for name in SHOWN if name in figures):
            points = figures[name]["points"]
            axes.plot(
                [point["seconds"] * 1000 for point in points],
                [point["PSNR, dB"] for point in points],
                color=SERIES[index],
                marker=MARKERS[index],
                markeredgecolor=PAGE,
                markeredgewidth=0.5,
                label=name,
            )
        _label_steps(axes, figures[SHOWN[0]]["points"])
        _scales(axes)
        axes.legend(loc="upper left", ncols=2)
        return alone(render(figure, "fidelity", _description(figures))) + "\n"


def _label_steps(axes: Axes, points: list[dict[str, Any]]) -> None:
    for point in points:
        if point["steps"] in _LABELLED:
            where = (point["seconds"] * 1000, point["PSNR, dB"])
            words = f"{point['steps']} steps"
            axes.annotate(words, where, (4, -11), textcoords="offset points", color=QUIET, fontsize=9)


def _scales(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if low <= tick <= high])
    axes.set_xlabel("ms for one picture")
    axes.set_ylabel("PSNR against the exact path, dB", color=INK)


def _description(figures: dict[str, Any]) -> str:
    at_20 = {
        name: point["PSNR, dB"]
        for name in SHOWN
        if name in figures
        for point in figures[name]["points"]
        if point["steps"] == 20
    }
    best = max(at_20, key=lambda name: at_20[name])
    return (
        f"Error against time for {len(at_20)} samplers on the demo model: PSNR rises with the steps; "
        f"at 20 steps from {min(at_20.values()):.0f} dB to {at_20[best]:.0f} dB, which {best} reaches."
    )
