"""The list of contestants, and what each one's environment is asked for."""

from __future__ import annotations

import re

import pytest

from latentrt.benchmarks.contestants.environments import WORKERS
from latentrt.benchmarks.contestants.registry import NAMES, contestant, pinned
from latentrt.engines.backend import backend_names
from latentrt.engines.errors import InputError


def test_a_wrong_name_offers_the_nearest() -> None:
    with pytest.raises(
        InputError, match=r"unknown contestant 'optimum-onx': did you mean 'optimum-onnx'\? known: .*torch"
    ):
        contestant("optimum-onx")


def test_latentrt_takes_part_with_every_engine() -> None:
    engines = {contestant(name).options["engine"] for name in NAMES if name.startswith("latentrt")}
    assert engines == {"auto", *backend_names()}


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_worker_and_all_its_packages_pinned(name: str) -> None:
    entry = contestant(name)
    assert entry.name == name
    assert (WORKERS / "workers" / f"{entry.worker}.py").is_file()
    assert entry.needs_source == (not name.startswith("latentrt"))
    assert bool(entry.requirements) == entry.needs_source
    for environment in {entry.environment, entry.exporter} - {None}:
        assert environment is not None
        assert all(re.fullmatch(r"[\w.\[\]-]+==[\w.]+", line) for line in pinned(environment))
