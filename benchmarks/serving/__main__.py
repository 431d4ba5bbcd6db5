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

from ..machine import figures_so_far, write_result
from .disconnect import disconnect
from .overhead import overhead
from .overload import overload
from .short_request import short_request
from .sigterm import sigterm
from .soak import soak
from .throughput import throughput

BODY = {"prompt": "a large red circle on a blue background", "num_inference_steps": 20, "guidance_scale": 3}
COUNTS = (1, 2, 4, 8, 16)
PROTOCOL = """`latentrt serve` with the demo bundle, 128x128, in a process of its own; clients in another on the same
machine, each with a connection of its own, ask again when answered. Throughput: 20 steps, calls of 8 rows (four
guided pictures) against calls of 2, servers asked in turn. Short: 4 steps, one request after another, alone and while
four clients keep the server full of 50-step requests. Overhead: an engine that answers in closed form, what a further
step takes by HTTP and in Pipeline.generate. Overload: four times as many clients as there is room for, who ask again
0.25 s after a refusal. SIGTERM: eight requests of 20 to 39 steps in flight, a server of its own each time; who asks
afterwards has a new connection each time. Going away: beside another request, whose rows tell of each step whether
both were in it; steps that ended after the connection was closed, the one under way among them. Soak: three
clients with 1 to 19 steps; others that go away in the middle or from a stream, ask for more than there is time for,
read a stream slowly, send what is no HTTP or no JSON, or nothing; the line through the second half of the memory, and
its 95 % interval (blocks of 30 s, bootstrapped)."""


def main() -> None:
    """Measure what is asked for, all but the soak if nothing is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("part", nargs="*", help="throughput, short, overhead, overload, sigterm, disconnect, soak")
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--minutes", type=float, default=20.0, help="of the soak")
    words = parser.parse_args()
    options = ("--engine", words.engine)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "throughput": lambda: throughput(words.bundle, options, BODY, COUNTS, each=2, rounds=3),
        "short": lambda: short_request(words.bundle, options, BODY, requests=40),
        "overhead": lambda: overhead(words.bundle, BODY, rounds=15),
        "overload": lambda: overload(words.bundle, options, BODY, seconds=30),
        "sigterm": lambda: sigterm(words.bundle, options, BODY, repeats=10),
        "disconnect": lambda: disconnect(words.bundle, options, BODY, repeats=30),
        "soak": lambda: soak(words.bundle, options, BODY, words.minutes),
    }
    if unknown := sorted(set(words.part) - parts.keys()):
        parser.error(f"no part is called {unknown[0]}; parts are {', '.join(parts)}")
    figures = figures_so_far("serving")
    for name in words.part or [name for name in parts if name != "soak"]:
        figures[name] = parts[name]()
        print(name, json.dumps({key: value for key, value in figures[name].items() if "samples" not in key}))
        write_result("serving", figures, " ".join(PROTOCOL.split()))


if __name__ == "__main__":
    sys.exit(guarded(main))
