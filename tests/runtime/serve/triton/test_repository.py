"""The repository that `latentrt triton` writes, read by Triton's own definition of config.pbtxt."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from latentrt.cli import run
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import InputError
from latentrt.runtime.serve.inference_tensors import INPUTS, OUTPUTS
from latentrt.runtime.serve.triton.parameters import Parameters

text_format = pytest.importorskip("google.protobuf.text_format", reason="protobuf is not installed")
tritonclient = pytest.importorskip("tritonclient", reason="tritonclient is not installed")


def config_of(model: Path) -> Any:
    """config.pbtxt as Triton reads it. `tritonclient.grpc` itself wants grpcio; its messages need protobuf alone."""
    place = Path(tritonclient.__path__[0], "grpc", "model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", place)
    assert spec is not None
    assert spec.loader is not None
    messages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(messages)
    return text_format.Parse((model / "config.pbtxt").read_text(), messages.ModelConfig())


def test_the_model_has_the_tensors_of_the_http_route_and_batches_by_itself(demo_bundle: Path, tmp_path: Path) -> None:
    assert (
        run(["triton", str(demo_bundle), "-o", str(tmp_path / "models"), "--model-name", "sd", "--max-rows", "6"]) == 0
    )
    config = config_of(tmp_path / "models" / "sd")
    assert config.backend == "python"
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert not config.model_transaction_policy.decoupled
    assert [(one.kind, one.count) for one in config.instance_group] == [(config.instance_group[0].KIND_CPU, 1)]
    assert [one.name for one in config.input] == list(INPUTS)
    assert [one.name for one in config.input if not one.optional] == ["prompt"]
    assert {one.name: list(one.dims) for one in config.output} == {name: dims for name, (_, dims) in OUTPUTS.items()}
    words = {name: value.string_value for name, value in config.parameters.items()}
    assert Parameters.from_words(words | {"EXECUTION_ENV_PATH": "/env"}) == Parameters(bundle="bundle", max_rows=6)


def test_a_copied_bundle_is_whole_and_has_its_engines(demo_bundle: Path, tmp_path: Path) -> None:
    engines = tmp_path / "engines"
    (engines / "0123456789abcdef").mkdir(parents=True)
    (engines / "0123456789abcdef" / "engine.json").write_text("{}")
    (engines / ".half.partial").mkdir()
    models = tmp_path / "models"
    assert run(["triton", str(demo_bundle), "-o", str(models), "--model-name", "sd", "--engine-dir", str(engines)]) == 0
    version = models / "sd" / "1"
    copied = Bundle.open(version / "bundle")
    copied.verify_all()
    assert copied.hash == Bundle.open(demo_bundle).hash
    assert [place.name for place in copied.engine_dir.iterdir()] == ["0123456789abcdef"]
    model = ast.parse((version / "model.py").read_text())
    assert [type(node) for node in model.body] == [ast.Expr, ast.ImportFrom, ast.Assign]


@pytest.mark.parametrize("engine", ["onnxruntime-cuda", "tensorrt", "tensorrt-rtx"])
def test_an_engine_of_a_gpu_has_an_instance_on_each(demo_bundle: Path, tmp_path: Path, engine: str) -> None:
    place = '/srv/a "bundle" \\ ünd'
    arguments = ["--engine", engine, "--bundle-at", place, "--engine-dir", "/srv/engines", "--model-name", "sd"]
    assert run(["triton", str(demo_bundle), "-o", str(tmp_path), *arguments]) == 0
    config = config_of(tmp_path / "sd")
    assert [(one.kind, one.count, list(one.gpus)) for one in config.instance_group] == [
        (config.instance_group[0].KIND_GPU, 1, [])
    ]
    assert config.parameters["bundle"].string_value == place
    assert config.parameters["engine_dir"].string_value == "/srv/engines"
    assert [file.name for file in (tmp_path / "sd" / "1").iterdir()] == ["model.py"]


def test_it_stands_beside_other_models_and_replaces_none(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    arguments = ["triton", str(demo_bundle), "-o", str(tmp_path), "--model-name", "sd", "--bundle-at", "/srv/sd"]
    assert run(arguments) == 0
    (tmp_path / "sd" / "config.pbtxt").write_text("mine")
    assert run(arguments) == 2
    assert "it is there already" in capsys.readouterr().err
    assert (tmp_path / "sd" / "config.pbtxt").read_text() == "mine"
    assert sorted(place.name for place in tmp_path.iterdir()) == ["other", "sd"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "auto"], "--engine auto is not for Triton"),
        (["--engine", "tensort"], "did you mean 'tensorrt'"),
        (["--model-name", "a/b"], "a model's name has letters"),
        (["--bundle-at", "here"], "--bundle-at is a path of the serving machine"),
        (["--bundle-at", "/srv/sd", "--engine-dir", "here"], "--engine-dir is a path of the serving machine"),
        (["--max-steps", "2000"], "max_steps is at most 1000"),
        (["--memory", "much"], "much"),
    ],
)
def test_what_the_model_would_refuse_is_refused_at_once(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(["triton", str(demo_bundle), "-o", str(tmp_path / "models"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({}, "`bundle`"),
        ({"bundle": "b", "max_row": "1"}, "`max_row`"),
        ({"bundle": "b", "max_rows": "many"}, "max_rows"),
    ],
)
def test_a_parameter_that_somebody_spoilt_is_named(words: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=r"parameters of config\.pbtxt") as caught:
        Parameters.from_words(words)
    assert told in str(caught.value)
