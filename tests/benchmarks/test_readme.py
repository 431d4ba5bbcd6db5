"""The README shows what the result files say, and its commands are the tool's."""

from __future__ import annotations

import re

import pytest

from latentrt.benchmarks.readme import PAGES, README, render
from latentrt.cli import run


def test_the_tables_are_those_of_the_results() -> None:
    for page, blocks in zip(PAGES, (9, 1, 1, 1, 1, 3, 2, 1), strict=True):
        text = page.read_text(encoding="utf-8")
        assert render(text) == text, "run 'make format'"
        assert text.count("<!-- results:") == blocks


def test_a_changed_figure_is_noticed() -> None:
    text = README.read_text(encoding="utf-8")
    changed = re.sub(r"\| 1\d\d%|\d\d\.\d%", "12.3%", text, count=1)
    assert changed != text
    assert render(changed) == text


@pytest.mark.parametrize("command", ["export", "add-decoder", "build", "pack", "generate", "inspect"])
def test_every_option_that_the_readme_names_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    known = set(re.findall(r"--?[a-z][a-z-]*", capsys.readouterr().out))
    text = README.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith(f"latentrt {command} ")]
    assert lines
    for line in lines:
        assert set(re.findall(r"(?<= )--?[a-z][a-z-]*", line)) <= known
