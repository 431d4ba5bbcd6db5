"""One instance of the model, called as Triton's Python backend calls it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentrt import Pipeline
from latentrt.engines.errors import EngineError, InputError
from latentrt.runtime.serve.triton.model import TritonPythonModel
from latentrt.runtime.serve.triton.parameters import Parameters
from support import triton_backend
from support.serving import Unet, until
from support.triton_backend import MetricFamily, Request

DRAWN: dict[str, Any] = {"prompt": [b"a star"], "num_inference_steps": [3], "seed": [7]}


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton_backend)
    monkeypatch.setattr(MetricFamily, "told", {})


def arguments(bundle: Path, **changes: str) -> dict[str, str]:
    parameters = Parameters(bundle=str(bundle), engine="fake", max_rows=4, max_queue=1).words() | changes
    config = {"parameters": {name: {"string_value": word} for name, word in parameters.items()}}
    return {
        "model_config": json.dumps(config),
        "model_name": "demo",
        "model_version": "1",
        "model_repository": "/models/demo",
        "model_instance_name": "demo_0_0",
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }


@pytest.fixture
def unet() -> Unet:
    return Unet()


@pytest.fixture
def model(demo_bundle: Path, unet: Unet, monkeypatch: pytest.MonkeyPatch) -> Iterator[TritonPythonModel]:
    opened = unet.opening(demo_bundle)
    monkeypatch.setattr(Parameters, "opening", lambda *_: opened)
    instance = TritonPythonModel()
    instance.initialize(arguments(demo_bundle))
    unet.rows.clear()
    yield instance
    instance.finalize()


def test_one_instance_draws_several_requests_in_common_calls(
    model: TritonPythonModel, unet: Unet, demo_bundle: Path
) -> None:
    unet.shut()
    first, second = Request(**DRAWN), Request(**DRAWN | {"seed": [8], "num_inference_steps": [2]})
    for request in (first, second):
        model.execute([request])
    until(lambda: model._host.service.under_way == 2, "both requests")
    assert not first.answered
    unet.gate.set()
    answers = [first.answer, second.answer]
    assert max(unet.rows) == 4
    with Pipeline.open(demo_bundle, engine="fake") as pipe:
        for answer, seed, steps in zip(answers, (7, 8), (3, 2), strict=True):
            image = np.asarray(pipe.generate("a star", seed=seed, num_inference_steps=steps).images[0])
            np.testing.assert_array_equal(answer.outputs["image"], image[None])
            assert answer.outputs["seed"].tolist() == [seed]


def test_outputs_are_those_that_were_asked_for(model: TritonPythonModel) -> None:
    request = Request(**DRAWN, wanted=["png", "flagged"])
    model.execute([request])
    outputs = request.answer.outputs
    assert sorted(outputs) == ["flagged", "png"]
    assert outputs["png"][0].startswith(b"\x89PNG")
    assert outputs["flagged"].tolist() == [False]


def test_the_figures_are_among_tritons(model: TritonPythonModel) -> None:
    told = MetricFamily.told
    instance = ("instance", "demo_0_0")
    drawn, refused = Request(**DRAWN), Request(seed=[1])
    model.execute([drawn, refused])
    assert drawn.answer.error is None
    assert refused.answer.error is not None
    registry = model._host.service.metrics.registry

    def alike() -> bool:  # some change a moment after the answer, and all are told every second
        return told.get(("latentrt_pictures_total", frozenset({instance}))) == 1 and all(
            value == pytest.approx(registry.get_sample_value(name, dict(labels - {instance})))
            for (name, labels), value in told.items()
        )

    until(alike, "what Triton was told and what the service counted")
    assert not [name for name, _ in told if name.endswith(("_bucket", "_created"))]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"seed": [1]}, "there is no prompt"),
        ({"width": [100]}, "width must be a multiple of 32"),
        ({"sampler": [b"eulr"]}, "unknown sampler 'eulr': did you mean 'euler'"),
        ({"prompt": [b"\xff"]}, "prompt is not UTF-8"),
        ({"guidance_scale": [float("nan")]}, "guidance_scale is a finite number"),
        ({"num_inference_steps": [151]}, "num_inference_steps has at most 150 steps"),
    ],
)
def test_bad_input_is_an_error_that_names_the_field(
    model: TritonPythonModel, columns: dict[str, list[Any]], words: str
) -> None:
    request = Request(**({"prompt": [b"a star"]} if "seed" not in columns else {}) | columns)
    model.execute([request])
    error = request.answer.error
    assert error is not None
    assert words in error.words
    assert error.code == "INVALID_ARG"
    assert request.answer.outputs == {}


def test_a_request_that_was_called_off_frees_its_rows_and_the_queue_is_bounded(
    model: TritonPythonModel, unet: Unet
) -> None:
    unet.shut()
    taken = [Request(**DRAWN) for _ in range(3)]
    refused = Request(**DRAWN)
    model.execute([*taken, refused])
    error = refused.answer.error
    assert error is not None
    assert (error.code, "of at most 3" in error.words) == ("UNAVAILABLE", True)
    taken[0].cancelled = True
    called_off = taken[0].answer.error
    assert called_off is not None
    assert called_off.code == "CANCELLED"
    assert model._host.service.under_way == 2
    unet.gate.set()
    assert [request.answer.error for request in taken[1:]] == [None, None]


def test_nan_is_an_error_and_no_picture(model: TritonPythonModel, unet: Unet) -> None:
    unet.spoilt = True
    request = Request(**DRAWN)
    model.execute([request])
    error = request.answer.error
    assert error is not None
    assert (error.code, "NaN or infinity" in error.words) == ("INTERNAL", True)
    assert request.answer.outputs == {}
    unet.spoilt = False


def test_finalize_finishes_what_is_under_way(demo_bundle: Path, unet: Unet, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = unet.opening(demo_bundle)
    monkeypatch.setattr(Parameters, "opening", lambda *_: opened)
    instance = TritonPythonModel()
    instance.initialize(arguments(demo_bundle))
    unet.shut()
    request = Request(**DRAWN)
    instance.execute([request])
    assert unet.reached.wait(60)
    ending = threading.Thread(target=instance.finalize)
    ending.start()
    until(lambda: instance._host.service.draining, "the end")
    assert not request.answered
    unet.gate.set()
    ending.join(60)
    assert not ending.is_alive()
    assert request.answer.error is None
    assert not [thread for thread in threading.enumerate() if thread.name == "latentrt-serve"]


def test_a_model_that_cannot_be_opened_says_why(demo_bundle: Path) -> None:
    with pytest.raises(InputError, match="max_rows is out of range"):
        TritonPythonModel().initialize(arguments(demo_bundle, max_rows="0"))
    with pytest.raises(EngineError, match="tensorrt"):
        TritonPythonModel().initialize(arguments(demo_bundle, engine="tensorrt"))
    assert not [thread for thread in threading.enumerate() if thread.name == "latentrt-serve"]
