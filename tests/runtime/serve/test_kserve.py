"""KServe's inference protocol as Triton's own client speaks it, with binary tensors; and what no client would send."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt import Pipeline
from latentrt.engines.errors import InputError
from latentrt.runtime.serve.inference_tensors import orders_of
from latentrt.runtime.serve.settings import ServeSettings
from support.serving import Running, Unet

triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
NUMPY = {"BYTES": np.object_, "INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32}


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{running.port}") as opened:
        yield opened


def inputs(binary: bool = True, **columns: tuple[str, list[Any]]) -> list[Any]:
    made = []
    for name, (datatype, values) in columns.items():
        one = triton.InferInput(name, [len(values)], datatype)
        one.set_data_from_numpy(np.array(values, NUMPY[datatype]), binary_data=binary)
        made.append(one)
    return made


COLUMNS: dict[str, tuple[str, list[Any]]] = {
    "prompt": ("BYTES", [b"a star", "ein größerer Kreis".encode()]),
    "num_inference_steps": ("INT32", [3]),
    "guidance_scale": ("FP32", [4.0, 1.0]),
    "seed": ("UINT64", [7]),
    "sampler": ("BYTES", [b"ddim"]),
    "width": ("INT32", [96]),
}


@pytest.mark.parametrize("binary", [True, False])
def test_pictures_are_those_of_generate(client: Any, demo_bundle: Path, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput("image", binary_data=binary), triton.InferRequestedOutput("seed", binary)]
    answer = client.infer("demo", inputs(binary, **COLUMNS), outputs=outputs, request_id="mine")
    images = answer.as_numpy("image")
    assert images.shape == (2, 128, 96, 3)
    assert images.dtype == np.uint8
    assert answer.as_numpy("seed").tolist() == [7, 8]
    assert answer.get_response()["id"] == "mine"
    assert answer.as_numpy("png") is None
    asked = (("a star", 4.0, 7), ("ein größerer Kreis", 1.0, 8))
    with Pipeline.open(demo_bundle, engine="fake") as pipe:
        for image, (prompt, scale, seed) in zip(images, asked, strict=True):
            options = {"guidance_scale": scale, "seed": seed, "num_inference_steps": 3, "sampler": "ddim", "width": 96}
            np.testing.assert_array_equal(image, np.asarray(pipe.generate(prompt, **options).images[0]))


def test_png_files_carry_their_facts(client: Any) -> None:
    wanted = [triton.InferRequestedOutput("png"), triton.InferRequestedOutput("flagged")]
    answer = client.infer("demo", inputs(**COLUMNS), outputs=wanted)
    with Image.open(io.BytesIO(answer.as_numpy("png")[1])) as picture:
        assert picture.text["latentrt:prompt"] == "ein größerer Kreis"
    assert answer.as_numpy("flagged").tolist() == [False, False]


def test_the_server_and_its_model_are_described(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("demo")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    told = client.get_model_metadata("demo")
    assert {one["name"]: one["datatype"] for one in told["inputs"]}["prompt"] == "BYTES"
    assert [one["name"] for one in told["outputs"]] == ["image", "png", "seed", "flagged"]


def test_the_one_version_may_be_named_and_another_is_none(client: Any) -> None:
    assert client.is_model_ready("demo", model_version="1")
    assert client.get_model_metadata("demo", model_version="1") == client.get_model_metadata("demo")
    asked = inputs(**COLUMNS)
    named, plain = (client.infer("demo", asked, model_version=version) for version in ("1", ""))
    np.testing.assert_array_equal(named.as_numpy("image"), plain.as_numpy("image"))
    assert named.get_response()["model_version"] == "1"
    assert not client.is_model_ready("demo", model_version="2")
    for ask in (client.get_model_metadata, lambda *_, **version: client.infer("demo", asked, **version)):
        with pytest.raises(triton.InferenceServerException, match="no version '2' of 'demo'") as caught:
            ask("demo", model_version="2")
        assert caught.value.status() == "404"


def test_extensions_that_are_not_here_are_refused_as_such(client: Any) -> None:
    asks = (
        lambda: client.get_model_config("demo"),
        lambda: client.get_model_config("demo", model_version="1"),
        client.get_inference_statistics,
        lambda: client.get_inference_statistics("demo"),
        client.get_model_repository_index,
        lambda: client.load_model("demo"),
        client.get_trace_settings,
        client.get_log_settings,
        client.get_system_shared_memory_status,
    )
    for ask in asks:
        with pytest.raises(triton.InferenceServerException) as caught:
            ask()
        assert caught.value.status() in {"404", "405"}
        assert caught.value.message()


def test_the_client_reads_our_errors(client: Any, unet: Unet) -> None:
    cases: dict[str, dict[str, tuple[str, list[Any]]]] = {
        "no prompt": {"seed": ("UINT64", [1])},
        "unknown input 'promt': did you mean 'prompt'": {"promt": ("BYTES", [b"a"])},
        "width is UINT64; got FP32": {"prompt": ("BYTES", [b"a"]), "width": ("FP32", [96.0])},
        "seed has 2 values": {"prompt": ("BYTES", [b"a"] * 3), "seed": ("UINT64", [1, 2])},
        "is not UTF-8": {"prompt": ("BYTES", [b"\xff"])},
        "guidance_scale": {"prompt": ("BYTES", [b"a"]), "guidance_scale": ("FP32", [float("nan")])},
        "one width and height": {"prompt": ("BYTES", [b"a"] * 2), "width": ("INT32", [64, 96])},
    }
    for words, columns in cases.items():
        with pytest.raises(triton.InferenceServerException, match=words) as caught:
            client.infer("demo", inputs(**columns))
        assert caught.value.status() == "422"
    with pytest.raises(triton.InferenceServerException, match="this server has 'demo'"):
        client.get_model_metadata("other")
    unet.spoilt = True
    with pytest.raises(triton.InferenceServerException, match="NaN or infinity") as caught:
        client.infer("demo", inputs(prompt=("BYTES", [b"a star"])))
    assert caught.value.status() == "500"


def test_the_number_of_prompts_is_checked_before_all_that_is_of_their_number() -> None:
    tensors: dict[str, tuple[str, list[Any]]] = {"prompt": ("BYTES", [b""] * 250_000), "seed": ("UINT64", [1, 2])}
    with pytest.raises(InputError, match="from 1 to 10 on this server; got 250000"):
        orders_of(tensors, ServeSettings())


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["a"]} | changes


SIZED = {"data": None, "parameters": {"binary_data_size": 5}}
MALFORMED: dict[str, tuple[Any, bytes, str | None]] = {
    "no JSON": (b"{", b"", None),
    "no inputs": ({}, b"", None),
    "a shape that is too large": ({"inputs": [tensor(shape=[2**62, 4])]}, b"", None),
    "a negative shape": ({"inputs": [tensor(shape=[-1])]}, b"", None),
    "numbers for words": ({"inputs": [tensor(data=[1])]}, b"", None),
    "words for numbers": ({"inputs": [tensor(), tensor(name="seed", datatype="UINT64", data=["1"])]}, b"", None),
    "truth for numbers": ({"inputs": [tensor(), tensor(name="seed", datatype="UINT64", data=[True])]}, b"", None),
    "a seed without end": ({"inputs": [tensor(), tensor(name="seed", datatype="UINT64", data=[2**70])]}, b"", None),
    "half a surrogate": ({"inputs": [tensor(data=["\ud800"])]}, b"", None),
    "twice": ({"inputs": [tensor(), tensor()]}, b"", None),
    "a length beyond the body": ({"inputs": [tensor()]}, b"", "999999"),
    "a length that is none": ({"inputs": [tensor()]}, b"", "²"),
    "bytes that are missing": ({"inputs": [tensor(**SIZED)]}, b"\1\0\0", ""),
    "an element that is too long": ({"inputs": [tensor(**SIZED)]}, b"\xff\0\0\0a", ""),
    "half a length": ({"inputs": [tensor(**SIZED, shape=[2])]}, b"\0\0\0\0\1", ""),
    "bytes of nobody": ({"inputs": [tensor()]}, b"more", ""),
    "half a number": ({"inputs": [tensor(), tensor(name="seed", datatype="UINT64", **SIZED)]}, b"12345", ""),
    "no output": ({"inputs": [tensor()], "outputs": [{"name": "latents"}]}, b"", None),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_refused(shared: Running, name: str) -> None:
    content, behind, length = MALFORMED[name]
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {} if length is None else {"Inference-Header-Content-Length": (length or str(len(body))).encode()}
    answer = shared.client.post("/v2/models/demo/infer", content=body + behind, headers=headers)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"] == answer.json()["detail"]
    assert shared.service.under_way == 0
