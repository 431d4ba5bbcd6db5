"""A threshold follows the lower precision of bundle and engine, and says where it comes from."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from latentrt.engines.bundle import Bundle
from latentrt.engines.manifest import Component
from latentrt.engines.threshold import (
    LATENTS_ERROR,
    MAX_ABS_ERROR,
    component_threshold,
    latents_threshold,
    lowest,
    picture_threshold,
    tensor_threshold,
)


@pytest.fixture
def component(tiny_original: Path) -> Component:
    return Bundle.open(tiny_original).component("unet")


def test_fp32_is_held_to_what_export_is_held_to(component: Component) -> None:
    found = component_threshold(component, "fp32")
    assert (found.metric, found.value, found.scaled) == ("max_abs", MAX_ABS_ERROR, True)
    assert "export" in found.origin


@pytest.mark.parametrize(
    ("bundle", "engine", "expected"),
    [
        ("fp32", "fp32", "fp32"),
        ("fp32", "fp16", "fp16"),
        ("fp16", "fp32", "fp16"),
        ("fp16", "bf16", "bf16"),
        ("bf16", "fp16", "bf16"),
        ("fp32", "fp4", "fp32"),  # unknown to this version: no excuse
    ],
)
def test_the_lower_precision_counts(bundle: str, engine: str, expected: str) -> None:
    assert lowest(bundle, engine) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("precision", "rounding"), [("fp16", np.finfo(np.float16).eps / 2), ("bf16", 2.0**-8)])
def test_reduced_precision_is_bounded_by_its_rounding(component: Component, precision: str, rounding: float) -> None:
    for threshold in (component_threshold, tensor_threshold):
        found = threshold(component, precision)
        assert (found.metric, found.value) == ("relative_l2", 8 * rounding)
        assert f"8 roundings of {precision}" in found.origin


def test_a_recorded_floor_takes_the_place_of_the_bound(component: Component) -> None:
    told = msgspec.structs.replace(component, precision="fp16", floor={"fp16": 3e-4, "bf16": 2e-3})
    assert component_threshold(told, "fp32").value == pytest.approx(6e-4)
    assert component_threshold(told, "bf16").value == pytest.approx(4e-3)
    assert "PyTorch's own bf16 error, recorded at export" in component_threshold(told, "bf16").origin
    assert msgspec.json.decode(msgspec.json.encode(told), type=Component) == told


def test_a_guided_way_in_reduced_precision_has_no_bound_but_a_recorded_one() -> None:
    assert latents_threshold("bf16", None, guided=True) is None
    assert picture_threshold("bf16", None) is None
    for found, value in (
        (latents_threshold("bf16", None, guided=False), 8 * 2**-8),
        (latents_threshold("bf16", 0.1, guided=True), 0.2),
        (picture_threshold("bf16", 0.05), 0.1),
        (latents_threshold("fp32", None, guided=True), LATENTS_ERROR),
    ):
        assert found is not None
        assert found.value == pytest.approx(value)
