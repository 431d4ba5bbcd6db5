"""What feeds are accepted, how a wrong one is named, and how free dimensions get their values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentrt.engines.errors import InputError
from latentrt.engines.tensor import TensorSpec, check_feeds, free_names, resolve_shape, split_dimension

SAMPLE = TensorSpec(name="sample", dtype="float32", shape=("rows", 4, "8*height", "8*width"))
TIMESTEP = TensorSpec(name="timestep", dtype="float32", shape=("rows",))
SPECS = (SAMPLE, TIMESTEP)


def zeros(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.zeros(shape, dtype)


def test_a_spec_reads_as_people_write_it() -> None:
    assert str(SAMPLE) == "sample float32 (rows, 4, 8*height, 8*width)"


def test_feeds_that_fit_give_the_free_dimensions() -> None:
    feeds = {"timestep": zeros(2), "sample": zeros(2, 4, 16, 24)}
    assert check_feeds("unet", SPECS, feeds) == {"rows": 2, "height": 2, "width": 3}


WRONG_FEEDS = {
    "unknown name": ({"samples": zeros(2, 4, 8, 8)}, "unet has no input 'samples'; it takes sample float32"),
    "missing": ({"sample": zeros(2, 4, 8, 8)}, "unet got no input 'timestep'; it takes .*timestep float32 \\(rows\\)"),
    "dtype": (
        {"sample": zeros(2, 4, 8, 8, dtype="float64")},
        "expects sample float32 .*; got float64 \\(2, 4, 8, 8\\)",
    ),
    "byte order": ({"sample": zeros(2, 4, 8, 8, dtype=">f4")}, "expects sample float32 .*; got >f4"),
    "rank": ({"sample": zeros(4, 8, 8)}, "expects sample .*; got float32 \\(4, 8, 8\\)"),
    "fixed length": ({"sample": zeros(2, 3, 8, 8)}, "3 is not 4"),
    "not a multiple": ({"sample": zeros(2, 4, 8, 12)}, "12 is not a positive multiple of 8"),
    "empty": ({"sample": zeros(0, 4, 8, 8)}, "0 is not a positive multiple of 1"),
    "disagree": (
        {"sample": zeros(2, 4, 8, 8), "timestep": zeros(3)},
        "timestep .*rows is 2 in another input and 3 here",
    ),
}


@pytest.mark.parametrize(("feeds", "message"), WRONG_FEEDS.values(), ids=WRONG_FEEDS)
def test_a_feed_that_does_not_fit_is_named(feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=f"^unet .*{message.removeprefix('unet ')}") as caught:
        check_feeds("unet", SPECS, feeds)
    assert "\n" not in str(caught.value)


LENGTHS = st.integers(1, 3)


@given(rows=LENGTHS, height=LENGTHS, width=LENGTHS)
def test_resolved_shapes_are_those_that_bind_the_same_values(rows: int, height: int, width: int) -> None:
    bound = {"rows": rows, "height": height, "width": width}
    feeds = {spec.name: zeros(*resolve_shape(spec.shape, bound)) for spec in SPECS}
    assert feeds["sample"].shape == (rows, 4, 8 * height, 8 * width)
    assert check_feeds("unet", SPECS, feeds) == bound


def test_free_names_of_all_specs() -> None:
    fixed = TensorSpec(name="table", dtype="int64", shape=(77,))
    assert free_names([SAMPLE, fixed]) == {"rows", "height", "width"}
    assert free_names([fixed]) == set()


@given(st.integers(1, 99_999), st.from_regex(r"[a-z_]+", fullmatch=True))
def test_dimensions_split_into_factor_and_name(factor: int, name: str) -> None:
    assert split_dimension(f"{factor}*{name}") == (factor, name)
    assert split_dimension(name) == (1, name)


@pytest.mark.parametrize(
    "text",
    ["", "0*rows", "08*rows", "-8*rows", "8*", "*rows", "8", "8 * rows", "Rows", "rows\n", "٣*rows", "123456*rows"],
)
def test_what_is_no_dimension_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a dimension"):
        split_dimension(text)
