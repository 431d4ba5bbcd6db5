"""What no client should send: each gets an answer that names the fault, and the server goes on."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from support.serving import GENERATIONS, Running, Unet, serving, until

JSON = {"Content-Type": "application/json"}
BODIES: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "the body: Field required"),
    "no JSON": (b"{", 400, "the body is no JSON"),
    "no object": (b"[1]", 400, "the body: Input should be a valid dictionary"),
    "no text": (b"\xff\xfe\x00", 400, "parsing the body"),
    "a million brackets": (b"[" * 1_000_000, 400, "body"),
    "a number of a million digits": (b'{"prompt": "", "seed": ' + b"9" * 1_000_000 + b"}", 400, "body"),
    "half a character": (b'{"prompt": "\\ud800"}', 400, "surrogate|unicode|UTF-8"),
    "half a character in a field's name": (
        b'{"prompt": "a", "\\ud800": 1}',
        400,
        "the body: Input should be a valid string",
    ),
    "NaN": (b'{"prompt": "a", "guidance_scale": NaN}', 400, "guidance_scale: Input should be a finite number"),
    "infinity": (b'{"prompt": "a", "guidance_scale": 1e999}', 400, "guidance_scale: Input should be a finite number"),
    "another type": (b'{"prompt": ["a", "b"]}', 400, "prompt: Input should be a valid string"),
    "more than a body may hold": (b" " * (2**20 + 1), 413, "at most 1048576 bytes"),
    "much more": (b" " * (8 * 2**20), 413, "at most 1048576 bytes"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_request_is_refused(shared: Running, name: str) -> None:
    body, status, words = BODIES[name]
    answer = shared.client.post(GENERATIONS, content=body, headers=JSON)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert re.search(words, error["message"]), error["message"]
    assert len(answer.content) < 4096


def test_a_form_is_no_request(shared: Running) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = shared.client.post(GENERATIONS, content=b'{"prompt": "a"}', headers={"Content-Type": kind})
        assert answer.status_code == 400


def test_a_body_without_a_length_is_refused_while_it_is_read(shared: Running) -> None:
    before = shared.metric("latentrt_http_answers_total", status="413")
    head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    said(shared, head + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 17)  # and no end
    until(lambda: shared.metric("latentrt_http_answers_total", status="413") == before + 1, "the answer 413")


def test_a_body_that_never_comes_is_given_up(demo_bundle: Path, unet: Unet) -> None:
    with serving(demo_bundle, unet.opening(demo_bundle), body_timeout=0.2) as slow:
        head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode()
        assert said(slow, head, ends=False).startswith(b"HTTP/1.1 408 ")


RAW = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "no target": b"GET\r\n\r\n",
    "two lengths": b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length below zero": b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "no length": b"POST /v1/models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a header without end": b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000,
    "a name in two lines": b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\x00b\r\n\r\n",
}


def said(running: Running, sent: bytes, *, ends: bool = True) -> bytes:
    """What the server answers to these bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        answer = b""
        try:
            connection.sendall(sent)
            if ends:
                connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(65536):
                answer += more
        except TimeoutError:
            raise
        except OSError:
            pass  # it had heard enough, and closed
    return answer


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_http_is_answered_400_or_nothing(shared: Running, name: str) -> None:
    answer = said(shared, RAW[name])
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert shared.client.get("/readyz").status_code == 200


def test_paths_and_methods_that_are_none_have_problem_details(shared: Running) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("DELETE", "/healthz", 405), ("GET", "/docs", 404)):
        answer = shared.client.request(method, path, headers={"X-Request-ID": "mine-7"})
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"] == "mine-7"
        problem = answer.json()
        assert (problem["status"], problem["request_id"]) == (status, "mine-7")
    strange = shared.client.get("/healthz", headers={"X-Request-ID": "a b" * 50})
    assert len(strange.headers["x-request-id"]) == 32


def test_whatever_the_document_allows_has_the_answer_that_it_tells(shared: Running) -> None:
    checks = [not_a_server_error, response_schema_conformance, content_type_conformance]
    asked = set()
    for operation in schemathesis.openapi.from_url(f"{shared.url}/openapi.json").get_all_operations():

        @settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.ok().as_strategy())
        def check(case: schemathesis.Case) -> None:
            response = case.call()
            asked.add((case.method, case.path, response.status_code))
            if response.status_code != 503:
                case.validate_response(response, checks=checks)

        check()
    assert ("GET", "/v1/models", 200) in asked
    assert ("POST", GENERATIONS, 400) in asked
