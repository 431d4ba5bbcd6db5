"""`python -m latentrt.benchmarks.serving BUNDLE [PART ...]` measures a real server, and writes `results/serving.json`.

Parts that are not measured keep the figures that this machine gave before.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentrt.commands.guard import guarded
from latentrt.engines.choice import Wanted
from latentrt.engines.size import parse_size

from ..machine import figures_so_far, write_result
from .calls import calls
from .disconnect import disconnect
from .overhead import overhead
from .overload import overload
from .short_request import short_request
from .sigterm import sigterm
from .soak import soak
from .throughput import throughput

BODY = {"prompt": "a large red circle on a blue background", "num_inference_steps": 20, "guidance_scale": 3}
COUNTS = (1, 2, 4, 8, 16)
LABELLED = frozenset({"calls", "throughput", "soak"})  # measured of several bundles and engines, or for several times
ON_DEMAND = frozenset({"replicas", "soak"})  # the one needs Ray, the other takes long
PROTOCOL = """`latentrt serve` with the demo bundle, 128x128, in a process of its own; clients in another on the same
machine, each with a connection of its own, ask again when answered."""
PROTOCOLS = {
    "calls": "Calls: of the UNet alone, each number of rows in turn.",
    "throughput": """Throughput: 20 steps if not stated, calls of 8 rows (four guided pictures) against calls of 2,
servers asked in turn.""",
    "short": """Short: 4 steps, one request after another, alone and while four clients keep the server full of 50-step
requests.""",
    "overhead": """Overhead: an engine that answers in closed form, what a further step takes by HTTP and in
Pipeline.generate.""",
    "overload": "Overload: four times as many clients as there is room for, who ask again 0.25 s after a refusal.",
    "sigterm": """SIGTERM: eight requests of 20 to 39 steps in flight, a server of its own each time; who asks
afterwards has a new connection each time.""",
    "disconnect": """Going away: beside another request, whose rows tell of each step whether both were in it; steps
that ended after the connection was closed, the one under way among them.""",
    "soak": """Soak: three clients with 1 to 19 steps; others that go away in the middle or from a stream, ask for more
than there is time for, read a stream slowly, send what is no HTTP or no JSON, or nothing; the line through the second
half of the memory, and its 95 % interval (blocks of 30 s, bootstrapped).""",
    "replicas": """Replicas: two on Ray Serve on this machine, with a thread each, and four clients; one is killed with
-9, three times, after 15 s of load each.""",
}


def main() -> None:
    """Measure what is asked for; all but the soak, and what needs Ray, if nothing is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("part", nargs="*", help=", ".join(PROTOCOLS))
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--precision", default=None, help="of the engines")
    parser.add_argument("--minutes", type=float, default=20.0, help="of the soak")
    parser.add_argument("--steps", type=int, default=BODY["num_inference_steps"], help="of throughput's requests")
    parser.add_argument("--size", default="auto", help="of throughput's and calls' pictures, such as 64x64")
    parser.add_argument("--clients", type=int, nargs="+", default=COUNTS, help="of throughput")
    parser.add_argument("--rounds", type=int, default=3, help="of throughput; of calls ten times as many")
    parser.add_argument("--label", default=None, help="of throughput's and calls' figures; the engine if not given")
    words = parser.parse_args()
    options = ("--engine", words.engine, *(() if words.precision is None else ("--precision", words.precision)))
    wanted = Wanted(engine=words.engine, precision=words.precision)
    size = None if words.size == "auto" else parse_size(words.size)
    asked = {**BODY, "num_inference_steps": words.steps, "size": words.size}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "calls": lambda: calls(words.bundle, wanted, size, rounds=10 * words.rounds),
        "throughput": lambda: throughput(words.bundle, options, asked, words.clients, each=2, rounds=words.rounds),
        "short": lambda: short_request(words.bundle, options, BODY, requests=40),
        "overhead": lambda: overhead(words.bundle, BODY, rounds=15),
        "overload": lambda: overload(words.bundle, options, BODY, seconds=30),
        "sigterm": lambda: sigterm(words.bundle, options, BODY, repeats=10),
        "disconnect": lambda: disconnect(words.bundle, options, BODY, repeats=30),
        "replicas": lambda: _replicas(words.bundle, words.engine),
        "soak": lambda: soak(words.bundle, options, BODY, words.minutes),
    }
    if unknown := sorted(set(words.part) - parts.keys()):
        parser.error(f"no part is called {unknown[0]}; parts are {', '.join(parts)}")
    figures, labels = figures_so_far("serving"), {"soak": f"{words.minutes:g} minutes"}
    for name in words.part or [name for name in parts if name not in ON_DEMAND]:
        found = parts[name]()
        print(name, json.dumps({key: value for key, value in found.items() if "samples" not in key}))
        label = labels.get(name, words.label or words.engine)
        figures[name] = {**figures.get(name, {}), label: found} if name in LABELLED else found
        told = [PROTOCOL, *(words for part, words in PROTOCOLS.items() if part in figures)]
        write_result("serving", figures, " ".join(" ".join(told).split()))


def _replicas(bundle: Path, engine: str) -> dict[str, Any]:
    from .replicas import replicas  # noqa: PLC0415 - it needs Ray, which the other parts go without

    return replicas(bundle, engine, BODY, rounds=3)


if __name__ == "__main__":
    sys.exit(guarded(main))
