"""The check against PyTorch must pass what is right and catch what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import CheckFailedError
from latentrt.engines.golden import golden_cases
from latentrt.engines.threshold import MAX_ABS_ERROR
from latentrt.export.compare import check_graph, round_up

Change = Callable[[np.ndarray], np.ndarray]


@pytest.mark.parametrize(
    ("error", "stated"),
    [(0.0, 0.0), (2.1e-6, 3e-6), (2.0e-6, 2e-6), (9.9e-6, 1e-5), (1e-4, 1e-4), (9.999e-5, 1e-4), (0.12, 0.2)],
)
def test_round_up_is_never_below(error: float, stated: float) -> None:
    assert round_up(error) == stated


def test_what_was_exported_is_within_the_threshold(tiny_bundle: Bundle) -> None:
    for name, component in tiny_bundle.manifest.components.items():
        error = check_graph(name, tiny_bundle.graph(name), golden_cases(tiny_bundle, name))
        assert 0 < error <= component.max_abs_error < MAX_ABS_ERROR


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param(lambda x: x + 1.5 * MAX_ABS_ERROR * max(1.0, float(x.std())), "0.00015", id="offset"),
        pytest.param(lambda x: np.where(np.arange(x.size).reshape(x.shape) == 7, np.nan, x), "nan", id="one NaN"),
        pytest.param(lambda x: np.ascontiguousarray(x[:, ::-1]), "from PyTorch", id="tokens reversed"),
    ],
)
def test_a_wrong_answer_is_named(tiny_bundle: Bundle, change: Change, found: str) -> None:
    cases = golden_cases(tiny_bundle, "text_encoder")
    cases[-1].outputs["last_hidden_state"] = change(cases[-1].outputs["last_hidden_state"]).astype(np.float32)
    with pytest.raises(CheckFailedError, match=r"last_hidden_state of case rows3 is") as caught:
        check_graph("text_encoder", tiny_bundle.graph("text_encoder"), cases)
    assert found in str(caught.value)
    assert caught.value.exit_code == 1
