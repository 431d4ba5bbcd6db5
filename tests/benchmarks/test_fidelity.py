"""More steps come nearer to the exact path, a second-order sampler sooner; the committed figures show it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from latentrt.benchmarks.fidelity import PATHS, STEPS, draw, path_name, point
from latentrt.benchmarks.fidelity_plot import PICTURE, SHOWN, draw_plot
from latentrt.benchmarks.machine import RESULTS
from latentrt.benchmarks.quality.adherence import held_out
from latentrt.benchmarks.readme_tables import DETAILS, TABLES
from latentrt.runtime.pipeline import Pipeline


def test_steps_and_order_bring_a_sampler_nearer(demo_bundle: Path) -> None:
    scenes = held_out(1)
    with Pipeline.open(demo_bundle) as pipeline:
        exact = draw(pipeline, scenes, "heun", "karras", 20)
        few, many = (point(draw(pipeline, scenes, "euler", None, n), exact, n) for n in (3, 12))
        second = point(draw(pipeline, scenes, "dpmpp_2m", None, 12), exact, 12)
    assert (few["steps"], few["calls"], exact.calls) == (3, 3, 39)
    assert few["relative L2"] > 1.5 * many["relative L2"] > 1.5 * second["relative L2"] > 0
    assert few["PSNR, dB"] < many["PSNR, dB"] < second["PSNR, dB"]


measured = pytest.mark.skipif(
    not (RESULTS / "fidelity.json").exists(), reason="not measured yet: run python -m latentrt.benchmarks.fidelity"
)


def committed() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / "fidelity.json").read_text())["figures"]
    return found


@measured
def test_the_committed_figures_are_whole_and_say_what_the_page_says() -> None:
    figures = committed()
    assert list(figures) == [path_name(*path) for path in PATHS]
    for found in figures.values():
        assert [one["steps"] for one in found["points"]] == list(STEPS)
        assert all(one["seconds"] > 0 for one in found["points"])
        assert found["points"][-1]["relative L2"] < found["points"][0]["relative L2"] / 10
    at_20 = {name: found["points"][STEPS.index(20)]["relative L2"] for name, found in figures.items()}
    assert at_20["dpmpp_2m, karras"] < at_20["euler"] / 3  # of second order, and small steps where the path ends


@measured
def test_the_committed_picture_is_that_of_the_figures() -> None:
    assert set(SHOWN) <= set(committed())
    drawn, kept = draw_plot(committed()), PICTURE.read_text(encoding="utf-8")
    said = re.compile(r"<title[^>]*>(.*?)</title>")
    assert said.findall(drawn) == said.findall(kept)  # the curves themselves may be laid out by another matplotlib


def made_up() -> dict[str, Any]:
    """Figures of the shape of the committed ones; they mean nothing."""
    steps = (1, 10, 20, 50)
    return {
        name: {
            "points": [
                {"steps": n, "calls": n, "relative L2": (i + 1) / n, "PSNR, dB": 10.0 + n / (i + 1), "seconds": n / 50}
                for n in steps
            ]
        }
        for i, name in enumerate(path_name(*path) for path in PATHS)
    }


def test_the_picture_stands_alone_on_light_and_dark_pages() -> None:
    text = draw_plot(made_up())
    ElementTree.fromstring(text)  # it is well-formed
    assert "prefers-color-scheme:dark" in text
    assert "var(--ink)" in text
    assert "at 20 steps from 12 dB to 30 dB, which euler reaches" in text
    assert not re.search(r"#0[0-9]0[0-9]0[0-9]\b", text)  # no stand-in for a colour is left
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)


def test_the_pages_show_what_was_measured() -> None:
    short, whole = TABLES["fidelity"](made_up()), DETAILS["fidelity"](made_up())
    assert "| `euler` | 20.0 (200) | 30.0 (400) | 60.0 (1000) |" in short
    assert "| `euler` | 1.0e+00 | 1.0e-01 | 5.0e-02 | 2.0e-02 | 10 |" in whole
    assert len(short.splitlines()) == len(whole.splitlines()) == len(PATHS) + 2
