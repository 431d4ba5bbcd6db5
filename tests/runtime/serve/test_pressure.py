"""More than there is room for, too late, gone away, stopped: each has its answer, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from support.serving import GENERATIONS, Running, Unet, serving, until

BODY = json.dumps({"prompt": "a star", "num_inference_steps": 50}).encode()


@pytest.fixture
def threads() -> Any:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def fill(running: Running, unet: Unet, threads: ThreadPoolExecutor, count: int = 3) -> list[Future[httpx2.Response]]:
    """As many requests as there is room for, held in the first step."""
    unet.shut()
    asked = [threads.submit(running.draw) for _ in range(count)]
    until(lambda: running.service.under_way == count, "the queue")
    return asked


def raw(running: Running, body: bytes = BODY) -> socket.socket:
    """A client that asks and then only keeps its end open."""
    connection = socket.create_connection(("127.0.0.1", running.port))
    head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    return connection


def test_a_full_server_says_so_at_once_and_loses_nothing(
    running: Running, unet: Unet, threads: ThreadPoolExecutor
) -> None:
    asked = fill(running, unet, threads)
    for _ in range(5):
        refused = running.draw()
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
    assert running.metric("latentrt_rejected_total", reason="queue") == 5
    unet.gate.set()
    assert [one.result().status_code for one in asked] == [200, 200, 200]
    assert running.metric("latentrt_request_seconds_count", outcome="done") == 3
    assert running.draw().status_code == 200


def test_the_openai_client_comes_again_when_it_is_told_to(
    running: Running, unet: Unet, threads: ThreadPoolExecutor
) -> None:
    asked = fill(running, unet, threads)
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=1) as client:
        patient = threads.submit(client.images.generate, prompt="a star")
        until(lambda: running.metric("latentrt_rejected_total", reason="queue") == 1)
        unet.gate.set()
        assert patient.result().data
    assert [one.result().status_code for one in asked] == [200, 200, 200]


def test_what_waits_is_counted(running: Running, unet: Unet, threads: ThreadPoolExecutor) -> None:
    asked = fill(running, unet, threads)
    figures = running.client.get("/metrics").text
    assert "\nlatentrt_queue_length 3.0\n" in figures
    assert running.client.get("/healthz").json() == {"status": "ready", "model": "demo", "waiting": 3, "live": 0}
    unet.gate.set()
    assert {one.result().status_code for one in asked} == {200}
    assert "\nlatentrt_queue_length 0.0\n" in running.client.get("/metrics").text
    assert running.metric("latentrt_pictures_total") == 3
    assert running.metric("latentrt_step_rows_sum") == sum(unet.rows)
    assert running.metric("latentrt_turn_seconds_count", kind="step") == len(unet.rows)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_rows(running: Running, unet: Unet, stream: bool) -> None:
    unet.shut()
    body = json.dumps({"prompt": "a star", "num_inference_steps": 50, "stream": stream}).encode()
    with raw(running, body):
        until(lambda: running.service.under_way == 1, "the request")
        assert unet.reached.wait(30)
    until(lambda: running.service.under_way == 0, "the end of a request without a client")
    calls = len(unet.rows)
    unet.gate.set()
    assert running.draw().status_code == 200
    assert unet.rows[calls:] == [2, 2, 2, 2]  # the call that was under way, and the three of the next request
    assert running.metric("latentrt_request_seconds_count", outcome="cancelled") == 1


def test_a_client_that_goes_away_before_its_stream_begins_frees_its_rows_too(running: Running, unet: Unet) -> None:
    body = json.dumps({"prompt": "a star", "num_inference_steps": 50, "stream": True}).encode()
    sent = [{"type": "http.request", "body": body, "more_body": False}]
    headers = [(b"host", b"x"), (b"content-type", b"application/json")]
    path = {"path": GENERATIONS, "raw_path": GENERATIONS.encode(), "query_string": b"", "root_path": ""}
    scope = {"type": "http", "method": "POST", "http_version": "1.1", "scheme": "http", "headers": headers, **path}

    async def receive() -> dict[str, Any]:
        return sent.pop() if sent else {"type": "http.disconnect"}

    async def send(_: object) -> None:
        await asyncio.sleep(10)  # the connection is still full of another answer

    async def asked() -> int:
        await running.server.config.loaded_app(scope, receive, send)
        return len(running.service.tickets)

    unet.shut()
    assert running.server.loop is not None
    assert asyncio.run_coroutine_threadsafe(asked(), running.server.loop).result(60) == 0
    unet.gate.set()


def test_a_request_that_takes_too_long_is_answered_504_and_frees_its_rows(demo_bundle: Path, unet: Unet) -> None:
    with serving(demo_bundle, unet.opening(demo_bundle), request_timeout=0.5) as running:
        unet.shut()
        late = running.draw()
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert "within 0.5 s" in late.json()["error"]["message"]
        assert running.service.under_way == 0
        calls = len(unet.rows)
        unet.gate.set()
        until(lambda: len(unet.rows) == calls + 1)
        assert running.draw().status_code == 200
        assert len(unet.rows) == calls + 4
        assert running.metric("latentrt_request_seconds_count", outcome="deadline") == 1


def test_a_key_has_its_share_and_no_more(demo_bundle: Path, unet: Unet, tmp_path: Path) -> None:
    from latentrt.runtime.serve.api_keys import read_api_keys

    file = tmp_path / "keys"
    file.write_text("# ours\nfirst-key-of-some-length\n\nsecond-key-of-some-length\n")
    keys = {"api_keys": read_api_keys(file), "max_per_key": 1}
    first, second = ({"Authorization": f"Bearer {name}-key-of-some-length"} for name in ("first", "second"))
    with (
        serving(demo_bundle, unet.opening(demo_bundle), **keys) as running,
        ThreadPoolExecutor(2) as threads,
    ):
        unet.shut()
        body = {"prompt": "a star"}
        asked = [threads.submit(running.client.post, GENERATIONS, json=body, headers=one) for one in (first, second)]
        until(lambda: running.service.under_way == 2)
        refused = running.client.post(GENERATIONS, json=body, headers=first)
        unet.gate.set()
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert "retry-after" in refused.headers
        assert [one.result().status_code for one in asked] == [200, 200]


def test_without_a_key_nothing_is_told(demo_bundle: Path, unet: Unet) -> None:
    from latentrt.runtime.serve.api_keys import ApiKeys

    with serving(demo_bundle, unet.opening(demo_bundle), api_keys=ApiKeys(["a-key-of-some-length"])) as running:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
            answer = running.client.get(path, headers={"Authorization": "Bearer a-key-of-some-lengtH"})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert running.client.get("/readyz").status_code == 200
        with (
            openai.OpenAI(base_url=f"{running.url}/v1", api_key="another", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError, match="takes API keys"),
        ):
            client.images.generate(prompt="a star")
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="a-key-of-some-length") as client:
            assert client.images.generate(prompt="a star", extra_body={"num_inference_steps": 1}).data


def test_a_server_that_stops_finishes_what_it_has_and_refuses_the_rest(
    running: Running, unet: Unet, threads: ThreadPoolExecutor
) -> None:
    asked = fill(running, unet, threads)
    running.server.handle_exit(15, None)
    until(lambda: running.service.draining)
    refused = running.draw()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert refused.headers["connection"] == "close"
    assert running.client.get("/readyz").status_code == 503
    assert running.client.get("/healthz").json()["status"] == "draining"
    unet.gate.set()
    assert [one.result().status_code for one in asked] == [200, 200, 200]
    until(lambda: running.server.should_exit)


def test_grace_ends(demo_bundle: Path, unet: Unet, threads: ThreadPoolExecutor) -> None:
    with serving(demo_bundle, unet.opening(demo_bundle), grace=0.2) as running:
        [asked] = fill(running, unet, threads, 1)
        running.server.handle_exit(15, None)
        lost = asked.result()
        assert (lost.status_code, lost.json()["error"]["code"]) == (503, "engine_lost")
        unet.gate.set()


def test_progress_tells_the_latest_step_to_whoever_reads_slowly(running: Running, unet: Unet) -> None:
    async def followed() -> list[int]:
        ticket = running.service.submit([{"prompt": "a star", "num_inference_steps": 20}])
        seen = []
        async for progress in ticket.progress():
            assert progress.steps == 20
            seen.append(progress.step)
            await asyncio.sleep(0.05)
        assert len(await ticket.pictures()) == 1
        return seen

    assert running.server.loop is not None
    seen = asyncio.run_coroutine_threadsafe(followed(), running.server.loop).result(60)
    assert seen == sorted(set(seen))
    assert seen[-1] == 20
    assert len(seen) < 20
