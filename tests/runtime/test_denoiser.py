"""The denoiser's algebra, on an engine whose answers are known in closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from latentrt.engines.distilled import guidance_embedding
from latentrt.engines.engine import Engine
from latentrt.engines.key import EngineKey
from latentrt.engines.manifest import TIMESTEP_COND, UNET, Component
from latentrt.engines.tensor import TensorSpec
from latentrt.runtime.denoiser import Conditioning, Denoiser, Question
from latentrt.runtime.guidance import Guidance
from latentrt.runtime.query import Query

IMAGE = ("rows", 4, "height", "width")
COMPONENT = Component(
    graph="g.onnx",
    weights=(),
    golden="g",
    max_abs_error=0.0,
    inputs=(
        TensorSpec(name="sample", dtype="float32", shape=IMAGE),
        TensorSpec(name="timestep", dtype="float32", shape=("rows",)),
        TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("rows", 77, 8)),
    ),
    outputs=(TensorSpec(name="out_sample", dtype="float32", shape=IMAGE),),
)
KEY = EngineKey(
    component=UNET, graph="", weights="", backend="test", backend_version="", device="", precision="", profile=""
)


class KnownModel(Engine):
    """Knows the clean latent (its text's mean) and the noise level of each timestep, and answers exactly."""

    def __init__(self, prediction: str, sigmas: dict[float, float]) -> None:
        super().__init__(UNET, COMPONENT, KEY)
        self.prediction, self.sigmas = prediction, sigmas
        self.rows: list[int] = []

    def _run(self, feeds: Any) -> dict[str, np.ndarray]:
        self.rows.append(len(feeds["sample"]))
        outputs = []
        for x_t, t, text in zip(feeds["sample"], feeds["timestep"], feeds["encoder_hidden_states"], strict=True):
            sigma = self.sigmas[float(t)]
            alpha, spread = 1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma)
            clean = text.mean()
            eps = (x_t - alpha * clean) / spread
            outputs.append(eps if self.prediction == "epsilon" else alpha * eps - spread * clean)
        return {"out_sample": np.stack(outputs).astype(np.float32)}


def question(clean: float, sigma: float, t: float, n: int = 1, size: int = 4, **guidance: Any) -> Question:
    x = np.random.default_rng(int(t)).standard_normal((n, 4, size, size)).astype(np.float32) * np.float32(sigma)
    return Question(Query(x, sigma, t, 0), Conditioning(np.full((77, 8), clean, np.float32), **guidance))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_questions_at_different_steps_get_their_own_clean_latents(prediction: str) -> None:
    model = KnownModel(prediction, {900.0: 9.0, 500.0: 1.5, 20.0: 0.1})
    negative = np.full((77, 8), -0.25, np.float32)
    questions = [
        question(0.5, 9.0, 900.0),
        question(-1.0, 1.5, 500.0, n=3),
        question(2.0, 0.1, 20.0, negative=negative, guidance=Guidance(3.0)),
    ]
    answers = Denoiser(model, prediction, max_rows=8).answer(questions)  # type: ignore[arg-type]
    assert model.rows == [6]  # 1 + 3 + 2: guidance costs the row it needs, and no more
    guided = -0.25 + 3.0 * (2.0 - -0.25)
    for answer, asked, clean in zip(answers, questions, [0.5, -1.0, guided], strict=True):
        assert answer.shape == asked.query.x.shape
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, clean, atol=2e-5)  # float32, at a noise level of 9


def test_more_rows_than_one_call_takes_are_split_and_change_nothing() -> None:
    model = KnownModel("epsilon", {500.0: 1.5})
    asked = [question(0.5, 1.5, 500.0, n=3), question(-0.5, 1.5, 500.0, n=2)]
    answers = Denoiser(model, "epsilon", max_rows=2).answer(asked)
    assert model.rows == [2, 2, 1]
    np.testing.assert_allclose(answers[0], 0.5, atol=1e-5)
    np.testing.assert_allclose(answers[1], -0.5, atol=1e-5)


class Distilled(KnownModel):
    """A UNet that is told the guidance scale, and keeps what it was told."""

    def __init__(self) -> None:
        super().__init__("epsilon", {500.0: 1.5})
        self.inputs = (*self.inputs, TensorSpec(name=TIMESTEP_COND, dtype="float32", shape=("rows", 256)))
        self.told: list[np.ndarray] = []

    def _run(self, feeds: Any) -> dict[str, np.ndarray]:
        self.told.append(feeds[TIMESTEP_COND])
        return super()._run(feeds)


def test_a_distilled_unet_is_told_each_rows_scale_and_costs_one_row() -> None:
    model = Distilled()
    scales = [1.0, 8.0, 3.5]
    asked = [question(0.5, 1.5, 500.0, n=n + 1, told_scale=scale) for n, scale in enumerate(scales)]
    answers = Denoiser(model, "epsilon", max_rows=4).answer(asked)
    assert model.rows == [4, 2]
    expected = guidance_embedding(np.repeat(np.float32(scales), [1, 2, 3]), 256)
    np.testing.assert_array_equal(np.concatenate(model.told), expected)
    for answer in answers:
        np.testing.assert_allclose(answer, 0.5, atol=1e-5)


def test_guidance_costs_a_row_where_it_acts_alone() -> None:
    """At sigmas above the interval's low end and up to its high end, and never with a scale of 1."""
    model = KnownModel("epsilon", {900.0: 9.0, 500.0: 1.5, 20.0: 0.1})
    negative, sigmas = np.zeros((77, 8), np.float32), {900.0: 9.0, 500.0: 1.5, 20.0: 0.1}
    for guidance, rows in (
        (Guidance(3.0), [2, 2, 2]),
        (Guidance(1.0), [1, 1, 1]),
        (Guidance(3.0, interval=(0.1, 9.0)), [2, 2, 1]),
        (Guidance(3.0, interval=(1.0, 5.0)), [1, 2, 1]),
        (Guidance(3.0, interval=(9.0, math.inf)), [1, 1, 1]),
    ):
        asked = [question(0.5, sigma, t, negative=negative, guidance=guidance) for t, sigma in sigmas.items()]
        assert [len(each.texts) for each in asked] == rows
        answers = Denoiser(model, "epsilon", max_rows=8).answer(asked)
        assert model.rows.pop() == sum(rows)
        for answer, row_count in zip(answers, rows, strict=True):
            np.testing.assert_allclose(answer, 1.5 if row_count == 2 else 0.5, atol=2e-5)  # 0 + 3 * 0.5
