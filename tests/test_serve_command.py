"""`latentrt serve`: the command itself, from its first line to its last."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from latentrt.cli import run
from latentrt.runtime.serve.server import listen
from support.serving import GENERATIONS, until

CLI = [sys.executable, "-c", "from latentrt.cli import main; main()"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_stop_answers_what_it_took_and_exits_with_0(
    demo_bundle: Path, number: signal.Signals
) -> None:
    arguments = ["serve", str(demo_bundle), "--port", "0", "--model-name", "demo"]
    process = subprocess.Popen([*CLI, *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process, process.stderr as lines, ThreadPoolExecutor(1) as threads:
        listening = json.loads(next(lines))
        assert listening["event"] == "listening"
        with httpx2.Client(base_url=listening["url"], timeout=120) as client:
            until(lambda: client.get("/readyz").status_code == 200, "readiness")
            assert client.get("/v1/models", headers={"Host": "elsewhere.example"}).status_code == 421
            assert client.get("/v1/models", headers={"Host": "localhost:8000"}).status_code == 200
            body = {"prompt": "a star", "num_inference_steps": 100, "size": "64x64"}
            asked = threads.submit(client.post, GENERATIONS, json=body)
            until(lambda: client.get("/healthz").json()["live"] == 1, "the first step")
            process.send_signal(number)
            until(lambda: client.get("/readyz").status_code == 503, "the end of readiness")
            assert asked.result().status_code == 200
        assert process.wait(60) == 0
        events = [json.loads(line)["event"] for line in lines]
    assert events == ["ready", "request", "request", "stopping", "request"]


def test_a_port_that_is_taken_is_named(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert run(["serve", str(demo_bundle), "--port", str(port)]) == 2
    assert capsys.readouterr().err == f"error: cannot listen on 127.0.0.1 port {port}: Address already in use\n"


def test_engines_that_do_not_open_end_it_and_an_open_door_is_told(
    demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--host", "0.0.0.0", "--port", "0", "--engine", "tensorrt"]
    assert run(["serve", str(demo_bundle), *arguments]) == 2
    assert not logging.getLogger("latentrt.serve").handlers  # which would write where nobody reads any more
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "warning: 0.0.0.0 is not this machine alone, and anybody may ask: give --api-key-file"
    assert told[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("keys", "words"),
    [("", "holds no key"), ("short\n", "16 or more characters"), ("# none\n", "holds no key")],
)
def test_a_key_file_without_good_keys_is_refused(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: str, words: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(keys)
    assert run(["serve", str(demo_bundle), "--api-key-file", str(file)]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-steps", "2000"], "max_steps is at most 1000"),
        (["--request-timeout", "0"], "request_timeout is out of range"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
    ],
)
def test_bad_settings_are_one_line(
    demo_bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(["serve", str(demo_bundle), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_without_its_extra_it_says_what_to_install(
    demo_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in ("latentrt.runtime.serve.server", "latentrt.commands.serve"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert run(["serve", str(demo_bundle)]) == 2
    assert capsys.readouterr().err == "error: serve needs uvicorn: pip install 'latentrt[serve]'\n"
