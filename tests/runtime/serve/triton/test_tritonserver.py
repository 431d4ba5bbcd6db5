"""The repository in a real tritonserver, asked by Triton's own clients over HTTP and gRPC."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import support
from latentrt import Pipeline
from latentrt.cli import run
from support.serving import until
from support.tritonserver import Triton, environment, tritonserver

triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
pytestmark = pytest.mark.full
NUMPY = {"BYTES": np.object_, "FP32": np.float32, "INT32": np.int32, "UINT64": np.uint64}
GRPC_CLIENT = Path(support.__file__).with_name("triton_client.py")
DRAWN: dict[str, tuple[str, list[Any]]] = {
    "prompt": ("BYTES", [b"a star"]),
    "num_inference_steps": ("UINT64", [3]),
    "seed": ("UINT64", [7]),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("triton") / "environment")


@pytest.fixture(scope="module")
def repository(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model with room for two guided pictures, and none that waits."""
    models = tmp_path_factory.mktemp("triton") / "models"
    limits = ["--max-rows", "4", "--max-queue", "0", "--max-steps", "1000", "--request-timeout", "600"]
    assert run(["triton", str(demo_bundle), "-o", str(models), "--model-name", "demo", *limits]) == 0
    return models


@pytest.fixture(scope="module")
def server(place: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    with tritonserver(place, repository, tmp_path_factory.mktemp("triton")) as running:
        yield running


@pytest.fixture
def client(server: Triton) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.http}", network_timeout=300) as opened:
        yield opened


def infer(client: Any, columns: dict[str, tuple[str, list[Any]]]) -> Any:
    inputs = []
    for name, (datatype, values) in columns.items():
        one = triton.InferInput(name, [len(values)], datatype)
        one.set_data_from_numpy(np.array(values, NUMPY[datatype]))
        inputs.append(one)
    return client.infer("demo", inputs)


@pytest.fixture(scope="module")
def reference(demo_bundle: Path) -> np.ndarray:
    with Pipeline.open(demo_bundle) as pipe:
        return np.asarray(pipe.generate("a star", num_inference_steps=3, seed=7).images[0])[None]


def test_the_picture_is_the_one_that_generate_draws(client: Any, reference: np.ndarray) -> None:
    answer = infer(client, DRAWN)
    np.testing.assert_array_equal(answer.as_numpy("image"), reference)
    assert answer.as_numpy("seed").tolist() == [7]
    assert answer.as_numpy("flagged").tolist() == [False]
    assert answer.as_numpy("png")[0].startswith(b"\x89PNG")


def test_requests_join_and_leave_and_one_that_is_called_off_makes_room(
    place: Path, server: Triton, reference: np.ndarray
) -> None:
    """By gRPC, whose calls can be cancelled: Triton's HTTP does not tell a model of a client that went away."""
    command = [place / "bin" / "python", GRPC_CLIENT, str(server.grpc)]
    told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=500).stdout)
    assert told["image"] == hashlib.sha256(reference.tobytes()).hexdigest()
    assert told["shape"] == list(reference.shape)
    assert told["joined"]
    assert told["refused"].startswith("StatusCode.UNAVAILABLE")
    assert "2 pictures are under way or wait, of at most 2" in told["refused"]
    assert len(told["cancelled"]) == 2
    # a guided picture has two rows: where steps were not shared, a step would have two as well
    until(lambda: server.figure("latentrt_step_rows_sum") > 2 * server.figure("latentrt_step_rows_count"))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"sampler": ("BYTES", [b"eulr"])}, "unknown sampler 'eulr': did you mean 'euler'"),
        ({"width": ("UINT64", [100])}, "width must be a multiple of 32"),
        ({"prompt": ("BYTES", [b"\xff"])}, "prompt is not UTF-8"),
        ({"prompt": ("BYTES", [])}, "there is no prompt"),
        ({"guidance_scale": ("FP32", [float("nan")])}, "guidance_scale is a finite number"),
        ({"num_inference_steps": ("INT32", [3])}, "expects 'UINT64'"),  # Triton's own words
    ],
)
def test_bad_input_is_refused_by_the_name_of_its_field(
    client: Any, columns: dict[str, tuple[str, list[Any]]], words: str
) -> None:
    with pytest.raises(triton.InferenceServerException, match=words) as caught:
        infer(client, DRAWN | columns)
    assert caught.value.status() == "400"


def test_a_server_that_is_told_to_stop_answers_what_it_took(place: Path, repository: Path, tmp_path: Path) -> None:
    with tritonserver(place, repository, tmp_path) as server, ThreadPoolExecutor(2) as threads:

        def ask(**columns: tuple[str, list[Any]]) -> Any:
            with triton.InferenceServerClient(f"127.0.0.1:{server.http}", network_timeout=300) as opened:
                return infer(opened, DRAWN | columns)

        def full() -> bool:
            """There is no room for a third; the refusal says how many are under way."""
            try:
                ask()
            except triton.InferenceServerException as refused:
                return "2 pictures are under way" in str(refused)
            return False

        asked = [threads.submit(ask, num_inference_steps=("UINT64", [300])) for _ in range(2)]
        until(full, "both requests")
        server.process.send_signal(signal.SIGTERM)
        assert [one.result().as_numpy("image").shape for one in asked] == [(1, 128, 128, 3)] * 2
        assert server.process.wait(60) == 0


def test_a_model_that_cannot_be_opened_is_unavailable_and_says_why(
    place: Path, demo_bundle: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    arguments = ["--model-name", "demo", "--bundle-at", "/no/such/bundle"]
    assert run(["triton", str(demo_bundle), "-o", str(models), *arguments]) == 0
    with (
        pytest.raises(AssertionError, match="there is no bundle at /no/such/bundle"),
        tritonserver(place, models, tmp_path),
    ):
        pass
