"""A record of trajectories is read as it was written, and refused by name where it does not fit the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import BundleError
from latentrt.engines.trajectory import METADATA_KEY, TrajectoryFacts, TrajectoryFloor, load_trajectories

FILE = "golden/trajectory.safetensors"
FACTS = TrajectoryFacts(
    name="a",
    sampler="euler",
    steps=2,
    guidance_scale=7.5,
    prompt="a red circle",
    negative_prompt="",
    seed=3,
    floor={"bf16": TrajectoryFloor(latents=(1e-3, 2e-3), image=3e-3)},
)
Arrays = dict[str, np.ndarray]


def tensors() -> Arrays:
    draw = np.random.default_rng(0).standard_normal
    shapes = {"noise": (1, 4, 2, 4), "a/latents": (2, 1, 4, 2, 4), "a/image": (1, 3, 16, 32)}
    return {name: draw(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def load(tiny_bundle: Path, relist: Callable[[Path], None]) -> Callable[[Arrays, Any], Any]:
    def load(arrays: Arrays, stated: Any) -> Any:
        metadata = None if stated is None else {METADATA_KEY: msgspec.json.encode(stated).decode()}
        (tiny_bundle / FILE).write_bytes(save(arrays, metadata=metadata))
        relist(tiny_bundle)
        return load_trajectories(Bundle.open(tiny_bundle), FILE)

    return load


def test_a_record_is_read_as_it_was_written(load: Callable[..., Any]) -> None:
    [found] = load(tensors(), [FACTS])
    assert found.facts == FACTS
    for name, array in (("noise", found.noise), ("a/latents", found.latents), ("a/image", found.image)):
        np.testing.assert_array_equal(array, tensors()[name])


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Arrays:
    return tensors() | {name: np.ascontiguousarray(change(tensors()[name]))}


def facts(**changes: Any) -> list[TrajectoryFacts]:
    return [msgspec.structs.replace(FACTS, **changes)]


REFUSED: dict[str, tuple[Arrays, Any, str]] = {
    "no facts": (tensors(), None, METADATA_KEY),
    "no trajectory": (tensors(), [], "records no trajectory"),
    "other facts": (tensors(), [{"name": "a"}], "missing required field"),
    "no tensor": (tensors(), facts(name="b"), "b/latents"),
    "steps": (tensors(), facts(steps=3), "a has noise"),
    "negative steps": (tensors(), facts(steps=-1), "steps"),
    "floor": (tensors(), facts(floor={"bf16": TrajectoryFloor(latents=(1e-3,), image=1e-3)}), "a has noise"),
    "channels": (changed("noise", lambda a: a[:, :3]), [FACTS], "a has noise"),
    "size": (changed("noise", lambda a: a[..., :3]), [FACTS], "a has noise"),
    "no size": (changed("noise", lambda a: a[..., :0]), [FACTS], "a has noise"),
    "image": (changed("a/image", lambda a: a[..., :16]), [FACTS], "a has noise"),
    "dtype": (changed("a/image", lambda a: a.astype(np.float64)), [FACTS], "float64"),
    "NaN": (changed("a/latents", lambda a: a * np.nan), [FACTS], "what is no number"),
}


@pytest.mark.parametrize(("arrays", "stated", "said"), REFUSED.values(), ids=REFUSED)
def test_a_record_that_does_not_fit_is_refused(
    load: Callable[..., Any], arrays: Arrays, stated: Any, said: str
) -> None:
    with pytest.raises(BundleError, match=FILE) as caught:
        load(arrays, stated)
    assert said in str(caught.value)


def test_what_is_no_safetensors_file_is_refused(tiny_bundle: Path, relist: Callable[[Path], None]) -> None:
    (tiny_bundle / FILE).write_bytes(b"not one at all")
    relist(tiny_bundle)
    with pytest.raises(BundleError, match=f"{FILE} is no record of trajectories"):
        load_trajectories(Bundle.open(tiny_bundle), FILE)
