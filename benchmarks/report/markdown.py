"""A trial's report in Markdown, for pull requests and logs."""

from __future__ import annotations

import html
import re

from ..trial.results import DENOISE_DECODE, PROMPT_TO_PNG, Results
from . import accuracy_tables, protocol, tables
from .table import Table

_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")


def markdown(results: Results) -> str:
    """The whole report."""
    parts = [f"# Benchmark: {escaped(protocol.heading(results))}", *_warnings(results)]
    parts += [render(table, level=2) for table in all_tables(results)]
    parts += _pictures(results)
    return "\n\n".join(parts) + "\n"


def all_tables(results: Results) -> list[Table]:
    """Every table that this trial has figures for, in the order of the report."""
    found = (
        tables.overview(results),
        tables.failures(results),
        tables.latency(results, PROMPT_TO_PNG),
        tables.latency(results, DENOISE_DECODE),
        tables.starts(results),
        tables.components(results),
        tables.batches(results),
        tables.concurrency(results),
        tables.memory(results),
        accuracy_tables.accuracy(results, "picture"),
        accuracy_tables.accuracy(results, "latents"),
        accuracy_tables.component_accuracy(results),
        accuracy_tables.step_accuracy(results),
        tables.quality(results),
        accuracy_tables.accuracy_notes(results),
        protocol.machine(results),
        protocol.environments(results),
        protocol.settings(results),
    )
    return [table for table in found if table is not None]


def render(table: Table, level: int) -> str:
    """A heading, the table, and its note."""
    parts = [f"{'#' * level} {escaped(table.caption)}", rows(table)]
    return "\n\n".join([*parts, escaped(table.note)] if table.note else parts)


def rows(table: Table) -> str:
    """The table alone; every cell is escaped."""
    other = "---:" if table.numeric else "---"
    rule = "|".join(["---", *[other] * (len(table.head) - 1)])
    lines = [" | ".join(map(escaped, row)) for row in (table.head, *table.rows)]
    head, *body = [f"| {line} |" for line in lines]
    return "\n".join([head, f"|{rule}|", *body])


def escaped(text: str) -> str:
    """Text that means nothing to Markdown, nor to HTML in it, on one line."""
    return html.escape(_SPECIAL.sub(r"\\\1", " ".join(text.split())), quote=False)


def _warnings(results: Results) -> list[str]:
    noisy = results.conditions.noisy
    return [f"> **This run was noisy:** {escaped('; '.join(noisy))}."] if noisy else []


def _pictures(results: Results) -> list[str]:
    """The first prompt's picture by each contestant, linked."""
    first = {name: files[0] for name, files in results.pictures.items() if files}
    if not first or not results.settings.prompts:
        return []
    shown = " ".join(f"![{escaped(name)}](<{_link(file)}>)" for name, file in first.items())
    return ["## Pictures", f"{escaped(results.settings.prompts[0])}, by {escaped(', '.join(first))}:", shown]


def _link(file: str) -> str:
    return re.sub(r"[<>\n\r\\]", lambda match: f"%{ord(match[0]):02X}", file)
