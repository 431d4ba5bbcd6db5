"""A worker on its leash: whatever it does, the one who asks gets an answer or one line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentrt.benchmarks.contestants.environments import WORKERS
from latentrt.benchmarks.contestants.remote import Refused, Remote

DUMMY = """
import os, subprocess, sys, time
import numpy as np
from workers.contestant import Contestant, Drawn
from workers.protocol import serve

print("imported")
print("17", flush=True)

class Dummy(Contestant):
    def open(self, model, options):
        print("a library's chatter")
        self.notes = [str(len(os.sched_getaffinity(0))), os.environ.get("OMP_NUM_THREADS", "")]
        if options.get("child"):
            self.child = subprocess.Popen(["sleep", "600"])
            self.notes = [str(self.child.pid)]

    def draw(self, asked):
        if asked.sampler == "crash":
            print("RuntimeError: out of luck", file=sys.stderr, flush=True)
            os.kill(os.getpid(), 11)
        if asked.sampler == "hang":
            time.sleep(600)
        if asked.sampler == "fail":
            raise ValueError("two\\nlines")
        images = [np.full((asked.height, asked.width, 3), seed, np.uint8) for seed in asked.seeds]
        return Drawn(np.stack(images))


serve(Dummy())
"""
ASKED = {
    "prompts": ["a", "b"],
    "seeds": [3, 4],
    "negative_prompt": "",
    "num_inference_steps": 2,
    "guidance_scale": 7.5,
    "sampler": "euler",
    "width": 16,
    "height": 8,
}


@pytest.fixture
def remote(tmp_path: Path) -> Any:
    script = tmp_path / "dummy.py"
    script.write_text(DUMMY, encoding="utf-8")
    variables = dict(os.environ) | {"PYTHONPATH": str(WORKERS)}
    started = Remote([sys.executable, str(script)], tmp_path / "log", variables)
    yield started
    started.close(grace=0)


def test_an_order_is_answered(remote: Remote, tmp_path: Path) -> None:
    opened = remote.ask(60, do="open", model=str(tmp_path), options={})
    assert opened["takes latents"]
    assert opened["files"] > 0
    found = remote.ask(60, do="draw", keep=str(tmp_path / "kept.npz"), **ASKED)
    assert found["prompt to PNG bytes"] > 0
    assert found["denoise+decode"] is None
    with np.load(tmp_path / "kept.npz") as kept:
        assert kept.files == ["images"]
        assert kept["images"].shape == (2, 8, 16, 3)
        assert (kept["images"][1] == 4).all()
    assert "chatter" in remote.log.read_text(encoding="utf-8")
    assert remote.ask(60, do="memory")["rss"] > 1e6
    assert 0 < remote.started < time.perf_counter()


def test_clients_are_served_in_the_order_in_which_they_came(remote: Remote) -> None:
    one = ASKED | {"prompts": ["a"], "seeds": [3]}
    found = remote.ask(60, do="load", clients=3, asked=[one] * 7)
    assert len(found["latencies"]) == 7
    assert all(0 < latency <= found["seconds"] for latency in found["latencies"])
    with pytest.raises(Refused, match=r"^ValueError: two lines$"):
        remote.ask(60, do="load", clients=2, asked=[one, one | {"sampler": "fail"}, one])


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (
            {"do": "dance"},
            r"^ValueError: there is no order 'dance'; known: prepare, open, draw, component, load, memory$",
        ),
        ({"do": "draw"}, r"^TypeError: .*missing .* required"),
        ({"do": "component", "name": "unet", "feeds": "nowhere", "calls": 1}, r"^FileNotFoundError: "),
        (ASKED | {"do": "draw", "sampler": "fail"}, r"^ValueError: two lines$"),
    ],
)
def test_nonsense_is_refused_in_one_line_and_the_worker_goes_on(
    remote: Remote, order: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Refused, match=reason):
        remote.ask(60, **order)
    assert remote.ask(60, do="draw", **ASKED)["components"] == {}


def test_a_crash_is_told_by_its_last_words(remote: Remote) -> None:
    with pytest.raises(Refused, match=r"^its process ended with signal SIGSEGV: RuntimeError: out of luck$"):
        remote.ask(60, do="draw", **ASKED | {"sampler": "crash"})
    assert remote.ended
    with pytest.raises(Refused, match=r"^its process was stopped$"):
        remote.ask(60, do="memory")


def test_a_hang_is_stopped_with_all_that_it_started(remote: Remote, tmp_path: Path) -> None:
    opened = remote.ask(60, do="open", model=str(tmp_path), options={"child": True})
    [child] = opened["notes"]
    with pytest.raises(Refused, match=r"^it took longer than the 0 s that were left for it$"):
        remote.ask(0.2, do="draw", **ASKED | {"sampler": "hang"})
    assert remote.ended
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def test_it_ends_with_whoever_asks(tmp_path: Path) -> None:
    """Killed in the middle of an order, the asking process leaves no worker behind."""
    script, asker = tmp_path / "dummy.py", tmp_path / "asker.py"
    script.write_text(DUMMY, encoding="utf-8")
    asker.write_text(
        f"""
import os, sys, time
from pathlib import Path
from latentrt.benchmarks.contestants.remote import Remote
remote = Remote([sys.executable, {str(script)!r}], Path({str(tmp_path / "log")!r}), dict(os.environ))
remote.ask(60, do="memory")
remote.send(do="draw", **{ASKED | {"sampler": "hang"}!r})
print(remote.pid, flush=True)
time.sleep(600)
""",
        encoding="utf-8",
    )
    path = os.pathsep.join([str(WORKERS), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, str(asker)], stdout=subprocess.PIPE, text=True, env=dict(os.environ) | {"PYTHONPATH": path}
    ) as asking:
        assert asking.stdout is not None
        worker = asking.stdout.readline().strip()
        assert _runs(worker)
        asking.kill()
    deadline = time.monotonic() + 10
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(worker)


def test_threads_are_the_cores_that_it_gets(tmp_path: Path) -> None:
    script = tmp_path / "dummy.py"
    script.write_text(DUMMY, encoding="utf-8")
    variables = dict(os.environ) | {"PYTHONPATH": str(WORKERS)}
    one = Remote([sys.executable, str(script)], tmp_path / "log", variables, threads=1)
    try:
        assert one.ask(60, do="open", model=str(tmp_path), options={})["notes"] == ["1", "1"]
    finally:
        one.close()


def _runs(pid: str) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
