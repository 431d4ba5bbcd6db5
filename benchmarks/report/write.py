"""Write a trial's reports beside its results."""

from __future__ import annotations

from pathlib import Path

from latentrt.engines.atomic import new_file

from ..trial.results import Results
from .html import html
from .markdown import markdown

MARKDOWN, HTML = "report.md", "report.html"


def write_report(results: Results, folder: Path) -> list[Path]:
    """Write `report.md` and `report.html`, each whole or not at all; `folder` is where the results' pictures lie.

    Raises:
        OutputError: they cannot be written.
    """
    pages = {MARKDOWN: markdown(results), HTML: html(results, folder)}
    for name, text in pages.items():
        with new_file(folder / name) as place:
            place.write_text(text, encoding="utf-8")
    return [folder / name for name in pages]
