"""A trial's report as one HTML file: it opens from disk, asks nothing of a network, and needs no script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..trial.results import DENOISE_DECODE, PROMPT_TO_PNG, Results
from . import accuracy_tables, protocol, tables
from .pictures import MOST_PROMPTS, MOST_SIDE, rows
from .plots import Plot, plots
from .svg import colours
from .table import Table


@dataclass(frozen=True)
class _Section:
    title: str
    plots: list[Plot]
    tables: list[Table]


def html(results: Results, folder: Path) -> str:
    """The page; pictures are read from `folder`. Everything that came from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("latentrt.benchmarks.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = plots(results)
    return environment.get_template("report.html.jinja").render(
        results=results,
        heading=protocol.heading(results),
        colours=Markup(colours()),
        overview=tables.overview(results),
        failures=tables.failures(results),
        sections=_sections(results, drawn),
        picture_rows=rows(results, folder),
        most_prompts=MOST_PROMPTS,
        most_side=MOST_SIDE,
        machine=protocol.machine(results),
        environments=protocol.environments(results),
        settings=protocol.settings(results),
        svg=lambda plot: Markup(plot.svg),
    )


def _sections(results: Results, drawn: dict[str, Plot]) -> list[_Section]:
    """Title, figures and tables of each part that has any."""
    parts = (
        (
            "Latency",
            ("latency", "latency-loop"),
            (tables.latency(results, PROMPT_TO_PNG), tables.latency(results, DENOISE_DECODE), tables.starts(results)),
        ),
        ("Where the time goes", ("parts",), (tables.components(results),)),
        (
            "Many at once",
            ("batches", "concurrency", "waiting"),
            (tables.batches(results), tables.concurrency(results)),
        ),
        ("Memory and disk", (), (tables.memory(results),)),
        (
            "Accuracy",
            ("steps",),
            (
                accuracy_tables.accuracy(results, "picture"),
                accuracy_tables.accuracy(results, "latents"),
                accuracy_tables.component_accuracy(results),
                accuracy_tables.step_accuracy(results),
                accuracy_tables.accuracy_notes(results),
            ),
        ),
        ("Quality", (), (tables.quality(results),)),
    )
    sections = []
    for title, figures, found in parts:
        shown = [drawn[name] for name in figures if name in drawn]
        kept = [table for table in found if table is not None]
        if shown or kept:
            sections.append(_Section(title, shown, kept))
    return sections
