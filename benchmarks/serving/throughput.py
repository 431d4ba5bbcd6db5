"""Pictures a second by clients, with requests sharing calls of the UNet and without, and where the time went."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from .load import closed_loop
from .served import Served, served

ROWS = {"shared": 8, "alone": 2}  # of one UNet call: four guided pictures, or one
TURNS = ("encode", "step", "decode")


class Sample(NamedTuple):
    """Pictures a second of one turn of a server, and the share of that time its worker spent in each kind of work."""

    rate: float
    shares: dict[str, float]


def throughput(
    bundle: Path, options: Sequence[str], body: Mapping[str, Any], counts: Sequence[int], each: int, rounds: int
) -> dict[str, Any]:
    """Both servers are open together and asked in turn, so that a drift of the machine meets both alike."""
    found: dict[str, dict[int, list[Sample]]] = {name: defaultdict(list) for name in ROWS}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(served(bundle, "--max-rows", str(rows), *options)) for name, rows in ROWS.items()
        }
        for server in servers.values():
            _sample(server, 4, body, 1)  # does not count
        for number in range(rounds):
            for count in counts:
                for name in ROWS if number % 2 == 0 else reversed(ROWS):
                    found[name][count].append(_sample(servers[name], count, body, each))
    rates = {
        name: {count: round(median(one.rate for one in some), 3) for count, some in by_count.items()}
        for name, by_count in found.items()
    }
    shared, alone = rates["shared"], rates["alone"]
    return {
        "pictures a second": rates,
        "shared over alone": {count: round(shared[count] / alone[count], 3) for count in counts},
        "shared over one client": {count: round(shared[count] / shared[counts[0]], 3) for count in counts},
        "share of the time": {
            name: {count: _shares(some) for count, some in by_count.items()} for name, by_count in found.items()
        },
        "samples": {
            name: {count: [one.rate for one in some] for count, some in by_count.items()}
            for name, by_count in found.items()
        },
    }


def _sample(server: Served, clients: int, body: Mapping[str, Any], each: int) -> Sample:
    before, started = _seconds(server), time.perf_counter()
    answers = closed_loop(server, clients, body, lambda sent: sent < each)
    taken, after = time.perf_counter() - started, _seconds(server)
    if any(answer.status != 200 for answer in answers):
        raise SystemExit(f"a request failed: {sorted({answer.status for answer in answers})}")
    return Sample(len(answers) / taken, {turn: (after[turn] - before[turn]) / taken for turn in TURNS})


def _seconds(server: Served) -> dict[str, float]:
    """Of the worker's turns so far, by kind."""
    return {turn: server.metric("latentrt_turn_seconds_sum", kind=turn) for turn in TURNS}


def _shares(samples: Sequence[Sample]) -> dict[str, float]:
    return {turn: round(median(one.shares[turn] for one in samples), 3) for turn in TURNS}
