"""OpenAI's images API, spoken to by OpenAI's own client."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from latentrt import Pipeline
from latentrt.runtime.picture import read_facts
from latentrt.runtime.serve import picture_files
from latentrt.runtime.serve.routes import openai as openai_routes
from support.serving import Running, Unet, serving


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as made:
        yield made


def opened(b64_json: str | None) -> Image.Image:
    assert b64_json is not None
    return Image.open(io.BytesIO(base64.b64decode(b64_json)))


def test_the_models_are_the_bundle_alone(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "latentrt"
    with pytest.raises(openai.NotFoundError, match="this server has 'demo'"):
        client.models.retrieve("sd15")


def test_the_picture_is_the_one_that_generate_draws(demo_bundle: Path, tmp_path: Path) -> None:
    fields = {"seed": 5, "num_inference_steps": 2, "negative_prompt": "blue", "guidance_scale": 3.0, "sampler": "heun"}
    with Pipeline.open(demo_bundle) as pipe:
        expected = pipe.generate("a red star", width=64, height=96, decoder="ft-mse", **fields)
    with (
        serving(demo_bundle, lambda: Pipeline.open(demo_bundle)) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as client,
    ):
        answer = client.images.generate(
            prompt="a red star", size="64x96", response_format="b64_json", extra_body=fields | {"decoder": "ft-mse"}
        )
    assert answer.data is not None
    [picture] = answer.data
    np.testing.assert_array_equal(np.asarray(opened(picture.b64_json)), np.asarray(expected.images[0]))
    file = tmp_path / "out.png"
    file.write_bytes(base64.b64decode(picture.b64_json or ""))
    assert read_facts(file) == expected.facts[0]
    assert (answer.size, answer.output_format, answer.background) == ("64x96", "png", "opaque")
    assert picture.model_extra == {"seed": 5, "flagged": False}


def test_pictures_of_one_request_are_those_of_seeds_that_count_up(
    client: openai.OpenAI, demo_bundle: Path, unet: Unet
) -> None:
    answer = client.images.generate(prompt="a star", n=2, extra_body={"seed": 7, "num_inference_steps": 3})
    assert answer.data is not None
    with Pipeline.open(demo_bundle, engine="fake") as pipe:
        for seed, picture in zip((7, 8), answer.data, strict=True):
            expected = pipe.generate("a star", seed=seed, num_inference_steps=3).images[0]
            np.testing.assert_array_equal(np.asarray(opened(picture.b64_json)), np.asarray(expected))
            assert (picture.model_extra or {})["seed"] == seed
    assert sum(unet.rows[1:]) == 2 * 2 * 3  # after the probe's one call: two guided pictures, three steps each


def test_without_a_seed_no_two_pictures_are_alike(client: openai.OpenAI) -> None:
    answers = [client.images.generate(prompt="a star", extra_body={"num_inference_steps": 1}) for _ in range(2)]
    seeds = {(picture.model_extra or {})["seed"] for answer in answers for picture in answer.data or []}
    assert len(seeds) == 2


@pytest.mark.parametrize(("output_format", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_pictures_come_in_the_format_that_was_asked_for(
    client: openai.OpenAI, output_format: Any, kind: str, tmp_path: Path
) -> None:
    answer = client.images.generate(
        prompt="a star", output_format=output_format, output_compression=50, extra_body={"num_inference_steps": 1}
    )
    [picture] = answer.data or []
    image = opened(picture.b64_json)
    image.load()
    assert (image.format, image.size, answer.output_format) == (kind, (128, 128), output_format)
    file = tmp_path / f"out.{output_format}"
    file.write_bytes(base64.b64decode(picture.b64_json or ""))
    assert {"prompt": "a star", "seed": str((picture.model_extra or {})["seed"])}.items() <= read_facts(file).items()


def test_a_stream_ends_with_the_picture(client: openai.OpenAI, demo_bundle: Path) -> None:
    fields = {"seed": 5, "num_inference_steps": 3}
    [event] = client.images.generate(prompt="a star", stream=True, extra_body=fields)
    assert event.type == "image_generation.completed"
    with Pipeline.open(demo_bundle, engine="fake") as pipe:
        expected = pipe.generate("a star", **fields).images[0]
    np.testing.assert_array_equal(np.asarray(opened(event.b64_json)), np.asarray(expected))
    assert (event.size, event.output_format) == ("128x128", "png")


def test_a_stream_shows_partial_images_on_the_way(
    client: openai.OpenAI, running: Running, unet: Unet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.service, "preview", lambda denoised: Image.new("RGB", denoised.shape[1:]))
    encoders = set()

    def encoded(*arguments: Any) -> bytes:
        encoders.add(threading.current_thread().name.rsplit("_")[0])
        return picture_files.encoded(*arguments)

    monkeypatch.setattr(openai_routes, "encoded", encoded)
    unet.pause = 0.05  # the fake UNet is done before anybody looks
    fields = {"num_inference_steps": 9}
    *partial, last = client.images.generate(prompt="a star", stream=True, partial_images=2, extra_body=fields)
    assert last.type == "image_generation.completed"
    for place, event in enumerate(partial):
        assert event.type == "image_generation.partial_image"
        assert event.partial_image_index == place
        assert opened(event.b64_json).size == (16, 16)
    assert 0 < len(partial) <= 2
    assert encoders == {"latentrt-encoding"}  # the event loop has others to answer


def test_an_error_within_a_stream_is_raised_by_the_client(client: openai.OpenAI, unet: Unet) -> None:
    unet.spoilt = True
    with pytest.raises(openai.APIError, match="NaN or infinity"):
        list(client.images.generate(prompt="a star", stream=True))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another model": ({"model": "dall-e-3"}, "this server has 'demo'"),
    "a size that the model cannot draw": ({"size": "100x128"}, "multiple of 32"),
    "a size beyond all": ({"size": "9000x9000"}, "at most 4096"),
    "words for a size": ({"size": "large"}, "size: String should match"),
    "more pictures than may wait": ({"n": 4}, "from 1 to 3 on this server"),
    "no picture": ({"n": 0}, "n: Input should be greater"),
    "a stream of two": ({"n": 2, "stream": True}, "a stream draws one picture"),
    "a URL": ({"response_format": "url"}, "keeps no files"),
    "a transparent picture": ({"background": "transparent"}, "opaque pictures alone"),
    "an unknown sampler": ({"extra_body": {"sampler": "eular"}}, "did you mean 'euler'"),
    "an unknown decoder": ({"extra_body": {"decoder": "x"}}, "unknown decoder 'x'"),
    "an unknown field": ({"extra_body": {"loras": []}}, "loras: Extra inputs"),
    "too many steps": ({"extra_body": {"num_inference_steps": 151}}, "at most 150 steps"),
    "guidance beyond all use": ({"extra_body": {"guidance_scale": 1e30}}, "guidance_scale is at most 100"),
    "a prompt of a book's length": ({"prompt": "a" * 4001}, "at most 4000 characters"),
    "a seed that torch has not": ({"extra_body": {"seed": 2**80}}, "seed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_refused_by_name(shared: Running, name: str) -> None:
    fields, words = REFUSED[name]
    with (
        openai.OpenAI(base_url=f"{shared.url}/v1", api_key="any", max_retries=0) as client,
        pytest.raises((openai.BadRequestError, openai.NotFoundError), match=words) as caught,
    ):
        client.images.generate(**({"prompt": "a star"} | fields))
    assert caught.value.type == "invalid_request_error"
    assert shared.service.tickets == {}
