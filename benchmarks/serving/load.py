"""Clients of a server: each asks, waits for the answer, and asks again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2

GENERATIONS = "/v1/images/generations"
LOST = 0  # the status of a request without an answer


@dataclass(frozen=True)
class Answered:
    """One request: its status (LOST where none came), seconds until the answer was there, and when that was."""

    status: int
    seconds: float
    at: float


class Server(Protocol):
    """Whatever can be asked: one process, or replicas behind a proxy."""

    def client(self) -> httpx2.Client:
        """A connection of its own."""


def ask(client: httpx2.Client, body: Mapping[str, Any]) -> Answered:
    """Ask once."""
    started = time.perf_counter()
    try:
        status = client.post(GENERATIONS, json=dict(body)).status_code
    except httpx2.TransportError:
        status = LOST
    now = time.perf_counter()
    return Answered(status, now - started, now)


def closed_loop(server: Server, clients: int, body: Mapping[str, Any], go_on: Callable[[int], bool]) -> list[Answered]:
    """So many clients, each with a connection of its own, ask as long as `go_on(requests it has sent)`."""

    def one(number: int) -> list[Answered]:
        found: list[Answered] = []
        with server.client() as client:
            while go_on(len(found)):
                found.append(ask(client, {**body, "seed": 1000 * number + len(found)}))
        return found

    with ThreadPoolExecutor(clients) as threads:
        return [answered for some in threads.map(one, range(clients)) for answered in some]
