"""Engines that hang, or whose thread died unseen: noticed, told, and the process ends so that another is started."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from latentrt import Pipeline
from latentrt.engines.bundle import Bundle
from latentrt.runtime.serve.errors import EngineStalledError
from latentrt.runtime.serve.service import Service
from latentrt.runtime.serve.settings import ServeSettings
from latentrt.runtime.serve.stall import StallWatch
from latentrt.runtime.turn import Turn
from support.serving import GENERATIONS, Unet, serving, until


@pytest.fixture
def unet() -> Iterator[Unet]:
    made = Unet()
    yield made
    made.gate.set()


def test_the_same_turn_at_every_look_is_stalled_and_turns_that_change_are_not() -> None:
    watch = StallWatch(4.0)
    assert watch.pause == 1.0
    assert [watch.stalled(7.5) for _ in range(5)] == [False, False, False, False, True]
    slow = [7.5, 7.5, 7.5, 7.5, 8.5, None, 9.5, 9.5, 9.5, 9.5]
    assert not any(map(StallWatch(4.0).stalled, slow))
    assert StallWatch(0.4).pause == 0.1


def test_a_call_that_never_returns_ends_readiness_and_health(demo_bundle: Path, unet: Unet) -> None:
    with (
        serving(demo_bundle, unet.opening(demo_bundle), stall_timeout=0.4) as running,
        ThreadPoolExecutor(2) as threads,
    ):
        ended = threading.Event()
        running.service.on_failure = ended.set  # the server would end now
        assert running.client.get("/healthz").status_code == 200
        unet.shut()
        asked = [threads.submit(running.draw) for _ in range(2)]
        for lost in asked:
            assert (lost.result().status_code, lost.result().json()["error"]["code"]) == (503, "engine_lost")
        assert ended.wait(10)
        assert isinstance(running.service.failure, EngineStalledError)
        assert running.client.get("/readyz").status_code == 503
        for path in ("/healthz", "/v2/health/live"):
            assert running.client.get(path).status_code == 503
        assert running.client.get("/healthz").json()["status"] == "failed"
        assert running.draw().json()["error"]["code"] == "not_ready"
        assert running.metric("latentrt_stalled_total") == 1
        unet.gate.set()


def test_many_turns_that_take_longer_together_are_no_stall(demo_bundle: Path, unet: Unet) -> None:
    with serving(demo_bundle, unet.opening(demo_bundle), stall_timeout=0.6) as running:
        unet.pause = 0.1
        assert running.draw(num_inference_steps=12).status_code == 200
        assert running.service.failure is None


def test_a_probe_that_hangs_is_noticed(demo_bundle: Path, unet: Unet) -> None:
    unet.shut()
    with serving(demo_bundle, unet.opening(demo_bundle), stall_timeout=0.2) as running:
        assert isinstance(running.service.failure, EngineStalledError)
        unet.gate.set()


def test_a_thread_that_dies_while_nobody_waits_is_noticed(demo_bundle: Path, unet: Unet) -> None:
    opened: list[Pipeline] = []
    opening = unet.opening(demo_bundle)

    def noted() -> Pipeline:
        opened.append(opening())
        return opened[-1]

    def breaks(_: Turn) -> None:
        raise RuntimeError("a defect")

    with serving(demo_bundle, noted, stall_timeout=0.4) as running:
        opened[0].on_turn = breaks
        opened[0].submit("a star", num_inference_steps=1)
        until(lambda: len(opened) == 2 and running.service.ready, "another pipeline")
        assert running.draw().status_code == 200


def test_by_default_a_turn_may_take_longer_than_any_request() -> None:
    assert ServeSettings().stall_seconds == 300
    assert ServeSettings(request_timeout=1000).stall_seconds == 2000
    assert ServeSettings(stall_timeout=20).stall_seconds == 20


def test_what_fails_in_the_middle_of_taking_a_request_in_leaves_nothing(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect is no reason to hold a place until the deadline."""
    with serving(demo_bundle, lambda: Pipeline.open(demo_bundle, engine="fake")) as running:

        def breaks(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(Pipeline, "submit", breaks)
        assert running.draw().status_code == 500
        assert running.service.tickets == {}


HANGS = """
import sys, time
from pathlib import Path
from latentrt.engines.fake_backend import FakeEngine
from latentrt.runtime.serve import service
from latentrt.cli import main
run, flag = FakeEngine.run, Path(sys.argv.pop(1))
service.CLOSING_SECONDS = 0.2

def hangs(self, feeds):
    if flag.exists():
        flag.with_suffix(".reached").touch()
        time.sleep(3600)
    return run(self, feeds)

FakeEngine.run = hangs
main()
"""


@pytest.mark.parametrize(("told", "status"), [("nothing", 75), ("SIGTERM", 0)])
def test_a_process_whose_engines_hang_ends_with_the_stated_status(
    demo_bundle: Path, tmp_path: Path, told: str, status: int
) -> None:
    flag = tmp_path / "hang"
    limits = ["--stall-timeout", "0.5" if told == "nothing" else "600", "--grace", "0.2"]
    arguments = ["serve", str(demo_bundle), "--port", "0", "--engine", "fake", *limits]
    command = [sys.executable, "-c", HANGS, str(flag), *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process, process.stderr as lines, ThreadPoolExecutor(1) as threads:
        url = json.loads(next(lines))["url"]
        with httpx2.Client(base_url=url, timeout=60) as client:
            until(lambda: client.get("/readyz").status_code == 200, "readiness")
            flag.touch()
            asked = threads.submit(client.post, GENERATIONS, json={"prompt": "a star"})
            until(flag.with_suffix(".reached").exists, "the call that hangs")
            if told == "SIGTERM":
                process.send_signal(signal.SIGTERM)
            assert (asked.result().status_code, asked.result().json()["error"]["code"]) == (503, "engine_lost")
        assert process.wait(60) == status
        *events, last = lines
    if told == "nothing":
        assert "the engines hang" in {json.loads(line)["event"] for line in events}
        assert last.startswith("error: a call of an engine did not return within 0.5 s")
    else:
        assert json.loads(last)["event"] == "the engines are still at work"


def test_a_service_that_is_closed_while_engines_open_does_not_wait_for_them(demo_bundle: Path) -> None:
    opens, opened = threading.Event(), threading.Event()

    def slowly() -> Pipeline:
        opens.set()
        assert opened.wait(60)
        return Pipeline.open(demo_bundle, engine="fake")

    async def closed_early() -> None:
        service = Service(Bundle.open(demo_bundle), ServeSettings(), slowly)
        service.start()
        await asyncio.to_thread(opens.wait, 60)
        await service.close()

    asyncio.run(closed_early())
    opened.set()
