"""Pictures a second by clients, with requests sharing calls of the UNet and without."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from .load import closed_loop
from .served import Served, served

ROWS = {"shared": 8, "alone": 2}  # of one UNet call: four guided pictures, or one


def throughput(
    bundle: Path, options: Sequence[str], body: Mapping[str, Any], counts: Sequence[int], each: int, rounds: int
) -> dict[str, Any]:
    """Both servers are open together and asked in turn, so that a drift of the machine meets both alike."""
    found: dict[str, dict[int, list[float]]] = {name: defaultdict(list) for name in ROWS}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(served(bundle, "--max-rows", str(rows), *options)) for name, rows in ROWS.items()
        }
        for server in servers.values():
            _rate(server, 4, body, 1)  # does not count
        for number in range(rounds):
            for count in counts:
                for name in ROWS if number % 2 == 0 else reversed(ROWS):
                    found[name][count].append(_rate(servers[name], count, body, each))
    rates = {name: {count: round(median(one), 3) for count, one in some.items()} for name, some in found.items()}
    shared, alone = rates["shared"], rates["alone"]
    return {
        "pictures a second": rates,
        "shared over alone": {count: round(shared[count] / alone[count], 3) for count in counts},
        "shared over one client": {count: round(shared[count] / shared[counts[0]], 3) for count in counts},
        "samples": found,
    }


def _rate(server: Served, clients: int, body: Mapping[str, Any], each: int) -> float:
    started = time.perf_counter()
    answers = closed_loop(server, clients, body, lambda sent: sent < each)
    if any(answer.status != 200 for answer in answers):
        raise SystemExit(f"a request failed: {sorted({answer.status for answer in answers})}")
    return len(answers) / (time.perf_counter() - started)
