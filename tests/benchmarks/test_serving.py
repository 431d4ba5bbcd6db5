"""What a server is measured by, with an engine that takes no time: real servers, real clients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentrt.benchmarks.readme_tables import TABLES
from latentrt.benchmarks.serving.disconnect import disconnect
from latentrt.benchmarks.serving.overhead import overhead
from latentrt.benchmarks.serving.overload import overload
from latentrt.benchmarks.serving.sigterm import sigterm
from latentrt.benchmarks.serving.soak import memory_line, soak

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


@pytest.mark.full  # a client that sends nothing is borne with for ten seconds
def test_a_soak_ends_with_nothing_left(demo_bundle: Path) -> None:
    found = soak(demo_bundle, FAKE, BODY, minutes=0.06)
    assert (found["lost"], found["unexpected"]) == (0, 0), found["answers"]
    assert all(found["answers"].values())  # each kind of client came
    assert not any(found["left in the server"].values())
    assert found["a picture at the end"] == "200"
    assert "soak of 3 seconds" in TABLES["serving"]({"soak": {"3 seconds": found}})


def test_the_line_through_the_memory_is_found_with_its_interval() -> None:
    noise = np.random.default_rng(1).normal(0, 2e5, 600)
    for growth in (0.0, 3.0):
        sizes = [(2.0 * one, int(300e6 + growth * 1e6 * one / 30 + noise[one])) for one in range(600)]
        line = memory_line([(0.0, 10**6), *sizes])  # what it took before it was warm does not count
        low, high = line["95 %"]
        assert low < growth < high
        assert high - low < 0.1
        assert line["MB at half time"] == pytest.approx(300 + 10 * growth, abs=1)


def test_a_server_that_is_told_to_stop_is_seen_to_finish(demo_bundle: Path) -> None:
    found = sigterm(demo_bundle, FAKE, BODY, repeats=1)
    assert found["finished"] == found["in flight"]
    assert found["exit statuses"] == {"0": 1}
    assert "SIGTERM with 8 requests" in TABLES["serving"]({"sigterm": found})


def test_steps_after_a_client_went_away_are_counted(demo_bundle: Path) -> None:
    found = disconnect(demo_bundle, ("--engine", "onnxruntime"), BODY, repeats=2)
    assert len(found["samples"]) == 2
    assert all(0 <= least <= most <= found["most"] for least, most in found["samples"])
    assert "clients that go away" in TABLES["serving"]({"disconnect": found})


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # Ray's own, of sockets that it leaves to the end of the process
def test_a_death_is_told_with_what_it_cost(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentrt.benchmarks.serving import replicas

    monkeypatch.setattr(replicas, "CALM", 1.0)
    found = replicas.replicas(demo_bundle, "fake", BODY, rounds=1)
    assert found["answers"].keys() <= {"200", "500", "503"}
    assert found["failed"] == sum(count for status, count in found["answers"].items() if status != "200")
    assert "1 deaths" in TABLES["serving"]({"replicas": found})
