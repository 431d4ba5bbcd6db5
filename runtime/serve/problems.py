"""Errors as answers: problem details (RFC 9457), and OpenAI's own error object under /v1/."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from latentrt.engines.errors import EngineError, InputError, NanPictureError

from .errors import BusyError, CalledOffError, DeadlineError, DrainingError, EngineLostError, RefusedError
from .request_ids import REQUEST_ID

OPENAI = "/v1/"
KSERVE = "/v2"  # its clients read `error`, which problem details may hold as a further member
CLIENT_GONE = 499  # nginx's "client closed request": it reaches logs and metrics alone
MOST_WORDS = 2000  # characters of a detail


@dataclass(frozen=True)
class Problem:
    """An error in HTTP's terms. `code` is a word that programs act on, `param` the field at fault."""

    status: int
    code: str
    detail: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The status in words."""
        return "Client Closed Request" if self.status == CLIENT_GONE else HTTPStatus(self.status).phrase


def problem_of(error: Exception) -> Problem | None:
    """What an error means to a client; None for a defect, of which a client is told nothing."""
    if isinstance(error, RequestValidationError):
        return _invalid(error.errors())
    if isinstance(error, HTTPException):
        code = HTTPStatus(error.status_code).name.lower()
        return Problem(error.status_code, code, str(error.detail), headers=error.headers or {})
    if isinstance(error, RefusedError):
        return _refused(error)
    for kind, status, code in _KINDS:
        if isinstance(error, kind):
            retry = {"Retry-After": "2"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
            return Problem(status, code, str(error), headers=retry)
    return None


DEFECT = Problem(500, "internal_error", "the server made a mistake; its log has more under this request's id")

# what the OpenAPI document tells of errors, for routes that answer with problem details
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": words,
        "content": {
            "application/problem+json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        name: {"type": "string"} for name in ("type", "title", "detail", "code", "request_id")
                    }
                    | {"status": {"type": "integer"}},
                    "required": ["type", "title", "status", "detail", "code"],
                }
            }
        },
    }
    for status, words in {
        401: "No key, or none of this server's.",
        404: "No such model.",
        413: "The body is too large.",
        422: "The request cannot be used.",
        429: "This key's share is used up; see Retry-After.",
        500: "The picture was NaN: there is none.",
        503: "Too many wait, or the engines are not ready; see Retry-After.",
        504: "Not done in time.",
    }.items()
}

_KINDS: tuple[tuple[type[Exception], int, str], ...] = (
    (InputError, 422, "invalid_input"),
    (NanPictureError, 500, "nan_picture"),
    (EngineError, 503, "engine_failed"),
    (EngineLostError, 503, "engine_lost"),
    (DeadlineError, 504, "deadline_exceeded"),
    (CalledOffError, CLIENT_GONE, "cancelled"),
)


def answer(problem: Problem, path: str) -> Response:
    """The problem in the form that clients of this path read."""
    body = openai_error(problem) if path.startswith(OPENAI) else _details(problem, path)
    kind = "application/json" if path.startswith(OPENAI) else "application/problem+json"
    return Response(json.dumps(body), _status(problem, path), dict(problem.headers), kind)


def openai_error(problem: Problem) -> dict[str, Any]:
    """OpenAI's error object."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    default = "server_error" if problem.status >= 500 else "invalid_request_error"
    kind = kinds.get(problem.status, default)
    return {
        "error": {
            "message": _cut(problem.detail),
            "type": kind,
            "param": problem.param,
            "code": problem.code,
        }
    }


def _details(problem: Problem, path: str) -> dict[str, Any]:
    return {
        "type": "about:blank",
        "title": problem.title,
        "status": problem.status,
        "detail": _cut(problem.detail),
        "code": problem.code,
        **({} if problem.param is None else {"param": problem.param}),
        "request_id": REQUEST_ID.get(),
        **({"error": _cut(problem.detail)} if path.startswith(KSERVE) else {}),
    }


def _status(problem: Problem, path: str) -> int:
    """OpenAI answers 400 to what it cannot use."""
    return 400 if problem.status == 422 and path.startswith(OPENAI) else problem.status


def _refused(refusal: RefusedError) -> Problem:
    headers = {"Retry-After": str(refusal.retry_after)}
    if isinstance(refusal, BusyError):
        if refusal.own_share:
            return Problem(429, "rate_limit_exceeded", str(refusal), headers=headers)
        return Problem(503, "queue_full", str(refusal), headers=headers)
    code = "draining" if isinstance(refusal, DrainingError) else "not_ready"
    return Problem(503, code, str(refusal), headers=headers)


def _invalid(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """The first error in words, and how many more there are; what came is not told back."""
    first, more = errors[0], len(errors) - 1
    if first["type"] == "json_invalid":
        place = f" at character {first['loc'][-1]}" if first["loc"] else ""
        return Problem(422, "invalid_json", f"the body is no JSON: {first['ctx']['error']}{place}")
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    rest = f" (and {more} more)" if more else ""
    return Problem(422, "invalid_input", f"{place or 'the body'}: {first['msg']}{rest}", param=place or None)


def _cut(words: str) -> str:
    return words if len(words) <= MOST_WORDS else f"{words[:MOST_WORDS]}..."
