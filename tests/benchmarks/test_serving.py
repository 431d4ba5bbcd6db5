"""What a server is measured by, with an engine that takes no time: real servers, real clients."""

from __future__ import annotations

from pathlib import Path

from latentrt.benchmarks.readme_tables import TABLES
from latentrt.benchmarks.serving.overhead import overhead
from latentrt.benchmarks.serving.overload import overload
from latentrt.benchmarks.serving.soak import soak

BODY = {"prompt": "a red circle on a blue background", "num_inference_steps": 20}
FAKE = ("--engine", "fake")


def test_a_step_by_http_is_told_beside_the_bare_loop(demo_bundle: Path) -> None:
    found = overhead(demo_bundle, BODY, rounds=2)
    assert found["ms a step"]["loop"] > 0
    assert {len(seconds) for some in found["samples, s"].values() for seconds in some.values()} == {2}


def test_under_overload_everybody_is_answered(demo_bundle: Path) -> None:
    found = overload(demo_bundle, FAKE, BODY | {"num_inference_steps": 100}, seconds=1.5)
    assert found["lost"] == 0
    assert found["answers"].keys() == {"200", "503"}
    assert "four times the room" in TABLES["serving"]({"overload": found})


def test_a_soak_ends_with_nothing_left(demo_bundle: Path) -> None:
    found = soak(demo_bundle, FAKE, BODY, minutes=0.12)
    assert found["lost"] == 0
    assert found["answers"].keys() == {"200"}
    assert found["left in the server"] == 0
