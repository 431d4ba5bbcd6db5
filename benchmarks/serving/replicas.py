"""Two replicas on Ray Serve under load, and one is killed: who was failed, and how long until there are two again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from .clustered import Cluster, cluster
from .load import Answered, closed_loop

REPLICAS, CLIENTS = 2, 4
CALM = 15.0  # seconds of load before each death, and after each recovery
EVERY = 0.05  # seconds between two looks


def replicas(bundle: Path, engine: str, body: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """So many deaths, one after another. Clients ask again at once, whatever they were answered."""
    with cluster(cpus=REPLICAS) as ray:
        ray.deploy({"bundle": str(bundle.resolve()), "engine": engine, "replicas": REPLICAS})
        closed_loop(ray, CLIENTS, body, lambda sent: sent < 2)  # does not count
        found = [_death(ray, body) for _ in range(rounds)]
    answers = sum((one.pop("answers") for one in found), Counter[str]())
    failed = sum(count for status, count in answers.items() if status != "200")
    return {
        "deaths": rounds,
        "clients": CLIENTS,
        "answers": dict(answers),
        "failed": failed,
        "failed a death": failed / rounds,
        "share failed from death to recovery": median(one["share failed from death to recovery"] for one in found),
        "first picture of the new one, s": median(one["first picture of the new one, s"] for one in found),
        "two healthy, s": median(one["two healthy, s"] for one in found),
        "samples": found,
    }


def _death(ray: Cluster, body: Mapping[str, Any]) -> dict[str, Any]:
    """Kill one replica in the middle of load, and wait until there are as many again."""
    before, ending = ray.pids(), threading.Event()
    answers: list[Answered] = []
    loading = threading.Thread(
        target=lambda: answers.extend(closed_loop(ray, CLIENTS, body, lambda _: not ending.is_set()))
    )
    loading.start()
    try:
        time.sleep(CALM)
        os.kill(min(before), signal.SIGKILL)
        killed, killed_at = time.perf_counter(), time.time()
        healthy, drew = _recovery(ray, before, killed, killed_at)
        time.sleep(CALM)
    finally:
        ending.set()
        loading.join()
    meanwhile = [one for one in answers if killed <= one.at <= killed + max(healthy, drew)]
    return {
        "answers": Counter(str(one.status) for one in answers),
        "share failed from death to recovery": _failed(meanwhile) / max(1, len(meanwhile)),
        "answered from death to recovery": len(meanwhile),
        "failed": _failed(answers),
        "first picture of the new one, s": round(drew, 2),
        "two healthy, s": round(healthy, 2),
    }


def _recovery(ray: Cluster, before: set[int], killed: float, killed_at: float) -> tuple[float, float]:
    """Seconds until Ray holds as many replicas for healthy as before, and until the new one has drawn a picture."""
    healthy = drew = None
    with ray.client() as client:
        while healthy is None or drew is None:
            now = time.perf_counter() - killed
            if healthy is None and ray.pids() - before and ray.running() == len(before):
                healthy = now
            if drew is None and _new_one_drew(client, killed_at):
                drew = now
            time.sleep(EVERY)
    return healthy, drew


def _new_one_drew(client: httpx2.Client, killed_at: float) -> bool:
    """Whether the replica that answers began after that time, and has drawn a picture."""
    try:
        text = client.get("/metrics").text
        samples = {one.name: one.value for family in text_string_to_metric_families(text) for one in family.samples}
    except (httpx2.TransportError, ValueError):  # ValueError: an answer of Ray's, in words
        return False
    began, drawn = (samples.get(f"latentrt_pictures_{what}", 0.0) for what in ("created", "total"))
    return began > killed_at and drawn > 0


def _failed(answers: Sequence[Answered]) -> int:
    return sum(one.status != 200 for one in answers)
