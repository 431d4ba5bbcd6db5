"""What no client should send: each gets an answer that names the fault, and the server goes on."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from latentrt.runtime.serve.routes.page import FILES
from support.serving import GENERATIONS, Running, Unet, serving, until

JSON = {"Content-Type": "application/json"}
SERVED = {"model": "demo", "name": "demo", "version": "1"}
BY_HAND = {  # bodies that are drawn by lot are never such a request: other tests send good ones
    ("POST", f"/v2/models/{{model}}{version}/infer") for version in ("", "/versions/{version}")
}
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


def documented(running: Running) -> set[tuple[str, str]]:
    """Method and path of every route that the OpenAPI document has."""
    paths: dict[str, dict[str, Any]] = running.client.get("/openapi.json").json()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods}


def test_whatever_the_document_allows_has_the_answer_that_it_tells(shared: Running) -> None:
    checks = [not_a_server_error, response_schema_conformance, content_type_conformance]
    asked: dict[tuple[str, str], set[int]] = {}
    for operation in schemathesis.openapi.from_url(f"{shared.url}/openapi.json").get_all_operations():

        @settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.ok().as_strategy(), named=st.booleans())
        def check(case: schemathesis.Case, named: bool) -> None:
            if named:  # a model and a version that are there: by chance no name ever is
                case.path_parameters = {name: SERVED[name] for name in case.path_parameters or {}}
            response = case.call()
            asked.setdefault((case.method, case.path), set()).add(response.status_code)
            if response.status_code != 503:
                case.validate_response(response, checks=checks)

        check()
    assert asked.keys() == documented(shared)
    for route, statuses in asked.items():
        told = {400, 422} if route in BY_HAND else {200}
        assert statuses & told, (route, statuses)  # the route itself was reached, and no guard before it alone


MALFORMED = {
    "no name of the server": ("HTTP/1.1", "", b""),
    "a length below zero": ("HTTP/1.1", "Content-Length: -1", b""),
    "two lengths": ("HTTP/1.1", "Content-Length: 1\r\nContent-Length: 2", b"ab"),
    "no chunk": ("HTTP/1.1", "Transfer-Encoding: chunked", b"zz\r\n"),
    "a zero in a header": ("HTTP/1.1", "X-Request-ID: a\0b", b""),
    "half a body": ("HTTP/1.1", "Content-Type: application/json\r\nContent-Length: 9", b"{"),
    "no JSON": ("HTTP/1.1", "Content-Type: application/json\r\nContent-Length: 4", b"\xff\xfe[{"),
    "packed, it says": (
        "HTTP/1.1",
        "Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2",
        b"{}",
    ),
    "a length of tensors that is none": ("HTTP/1.1", "Inference-Header-Content-Length: x\r\nContent-Length: 2", b"{}"),
    "another protocol": ("HTTP/9.9", "Host: x", b""),
    "an older one": ("HTTP/1.0", "Content-Length: 0", b""),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http_is_no_reason_to_fail_on_any_route(shared: Running, name: str) -> None:
    version, header, body = MALFORMED[name]
    hidden = {("GET", path) for path in (*FILES, "/openapi.json")}
    for method, path in documented(shared) | hidden:
        target = path.format(**SERVED) + "?%zz=%ff&step=%00"
        host = "" if name == "no name of the server" else "Host: x\r\n"
        head = f"{method} {target} {version}\r\n{host}{header}" + ("\r\n\r\n" if header else "\r\n")
        answer = said(shared, head.encode("latin-1") + body)
        assert answer == b"" or answer[9:10] in {b"2", b"4"} or answer[9:12] == b"503", (method, path, answer[:80])
    until(lambda: shared.service.tickets == {}, "the end of all that was asked")
    assert shared.client.get("/readyz").status_code == 200
