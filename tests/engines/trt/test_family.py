"""Which opset a library is given, by its version alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from latentrt.engines.tensorrt_rtx_backend import BACKEND
from latentrt.engines.trt.family import Family


@pytest.mark.parametrize(
    ("version", "asked", "opset"),
    [
        ("10.3.0.26", None, 20),
        ("10.13.3.9", None, 20),
        ("10.14.1.48", None, None),
        ("11.4.0.106", None, None),
        ("10.3.0.26", 20, 20),
        ("11.4.0.106", 20, 20),
    ],
)
def test_libraries_without_attention_are_given_opset_20(version: str, asked: int | None, opset: int | None) -> None:
    module = SimpleNamespace(__version__=version)
    family = Family("tensorrt", module, ahead_of_time=False, attention_since=(10, 14))
    assert family.opset(asked) == opset


def test_the_installed_one_reads_graphs_as_they_are() -> None:
    assert BACKEND.family.opset(None) is None
