"""What a server is measured by, with an engine that takes no time: real servers, real clients."""

from __future__ import annotations

from pathlib import Path

import pytest

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


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # Ray's own, of sockets that it leaves to the end of the process
def test_a_death_is_told_with_what_it_cost(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentrt.benchmarks.serving import replicas

    monkeypatch.setattr(replicas, "CALM", 1.0)
    found = replicas.replicas(demo_bundle, "fake", BODY, rounds=1)
    assert found["answers"].keys() <= {"200", "500", "503"}
    assert found["failed"] == sum(count for status, count in found["answers"].items() if status != "200")
    assert "1 deaths" in TABLES["serving"]({"replicas": found})
