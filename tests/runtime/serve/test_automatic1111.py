"""AUTOMATIC1111's API, as `webuiapi`, a client of it that knows nothing of latentrt, asks it."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt import Pipeline
from latentrt.runtime.samplers import SAMPLERS
from latentrt.runtime.serve.api_keys import ApiKeys
from latentrt.runtime.serve.routes.automatic1111_schema import SAMPLER_NAMES, SCHEDULERS, TextToImage
from latentrt.runtime.serve.seed_by_lot import SEED_BITS
from support.serving import Running, Unet, serving, until

webuiapi = pytest.importorskip("webuiapi", reason="webuiapi is not installed")
SMALL = {"width": 128, "height": 128, "steps": 3}


@pytest.fixture
def api(running: Running) -> Any:
    return webuiapi.WebUIApi(host="127.0.0.1", port=running.port)


def test_pictures_are_those_of_generate_with_seeds_that_count_up(api: Any, demo_bundle: Path) -> None:
    prompt = "a (red:1.3) star BREAK on blue"
    asked = {"prompt": prompt, "negative_prompt": "[green]", "sampler_name": "DPM++ 2M Karras", "cfg_scale": 4.0}
    result = api.txt2img(**asked, **SMALL, seed=41, batch_size=2)
    with Pipeline.open(demo_bundle, engine="fake") as pipe:
        for index, picture in enumerate(result.images):
            expected = pipe.generate(
                prompt,
                negative_prompt="[green]",
                prompt_syntax="weighted",
                max_prompt_chunks=4,
                num_inference_steps=3,
                guidance_scale=4.0,
                sampler="dpmpp_2m",
                spacing="karras",
                seed=41 + index,
            )
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected.images[0]))
            assert picture.text["latentrt:seed"] == str(41 + index)
    assert len(result.images) == 2
    assert result.info["all_seeds"] == [41, 42]
    assert "Steps: 3, Sampler: DPM++ 2M Karras, CFG scale: 4, Seed: 42" in result.info["infotexts"][1]
    assert result.parameters["prompt"] == prompt


def test_a_seed_by_lot_is_told_and_draws_the_picture_again(api: Any) -> None:
    first = api.txt2img(prompt="a star", **SMALL)
    again = api.txt2img(prompt="a star", **SMALL, seed=first.info["seed"])
    assert 0 <= first.info["seed"] < 2**SEED_BITS
    np.testing.assert_array_equal(np.asarray(again.image), np.asarray(first.image))


def test_variations_are_of_one_seed(api: Any, demo_bundle: Path) -> None:
    result = api.txt2img(
        prompt="a star", **SMALL, seed=5, subseed=9, subseed_strength=0.25, n_iter=2, sampler_name="Euler"
    )
    with Pipeline.open(demo_bundle, engine="fake") as pipe:
        options = {"seed": 5, "variation_seed": 10, "variation_strength": 0.25, "guidance_scale": 7.0}
        expected = pipe.generate("a star", num_inference_steps=3, **options).images[0]
    np.testing.assert_array_equal(np.asarray(result.images[1]), np.asarray(expected))


def test_what_there_is_is_listed(api: Any) -> None:
    assert {sampler["name"] for sampler in api.get_samplers()} == set(SAMPLER_NAMES)
    [model] = api.get_sd_models()
    assert (model["title"], model["filename"]) == ("demo", "")
    assert api.get_options() == {"sd_model_checkpoint": "demo", "sd_vae": "kl-f8"}
    assert api.util_get_current_model() == "demo"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_every_name_is_a_sampler_of_ours_and_automatic_a_spacing_that_it_has(name: str, scheduler: str) -> None:
    [order] = TextToImage(sampler_name=name, scheduler=scheduler).orders(1)
    assert order["sampler"] == SAMPLER_NAMES[name]
    if scheduler == "automatic":
        assert order["spacing"] is None or order["spacing"] in SAMPLERS[order["sampler"]].spacings


def test_options_that_are_set_already_may_be_set_and_others_not(api: Any, running: Running) -> None:
    assert api.set_options({"sd_model_checkpoint": "demo"}) is None
    for wanted, words in (({"sd_model_checkpoint": "other"}, "'demo', and cannot be"), ({"x": 1}, "no option")):
        answer = running.client.post("/sdapi/v1/options", json=wanted)
        assert answer.status_code == 422
        assert words in answer.json()["detail"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a second pass": ({"enable_hr": True}, "enable_hr: this server has no such feature"),
    "a script": ({"script_name": "x/y/z plot"}, "script_name"),
    "another model": ({"override_settings": {"sd_model_checkpoint": "other"}}, "sd_model_checkpoint is 'demo'"),
    "no sampler": ({"sampler_name": "Euler b"}, "did you mean 'Euler"),
    "no scheduler": ({"scheduler": "polyexponential"}, "unknown scheduler"),
    "a size": ({"width": 100}, "multiple of 32"),
    "too many": ({"batch_size": 9, "n_iter": 2}, "from 1 to"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_by_name(shared: Running, name: str) -> None:
    api = webuiapi.WebUIApi(host="127.0.0.1", port=shared.port)
    fields, words = REFUSED[name]
    with pytest.raises(RuntimeError) as caught:
        api.txt2img(**({"prompt": "a star"} | SMALL | fields))
    assert caught.value.args[0] == 422
    assert words in caught.value.args[1]


def test_progress_is_told_and_an_interruption_ends_it(api: Any, running: Running, unet: Unet) -> None:
    assert api.get_progress()["progress"] == 0
    unet.shut()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(api.txt2img, prompt="a star", **(SMALL | {"steps": 4}))
        until(lambda: running.service.under_way == 1)
        unet.step()
        until(lambda: api.get_progress()["current_image"] is not None)
        told = api.get_progress()
        assert told["progress"] == 0.25
        assert (told["state"]["sampling_step"], told["state"]["sampling_steps"]) == (1, 4)
        with Image.open(io.BytesIO(base64.b64decode(told["current_image"]))) as preview:
            assert preview.size == (128, 128)
        assert api.interrupt() == {}
        until(lambda: running.service.under_way == 0)
        unet.gate.set()
        with pytest.raises(RuntimeError) as caught:
            asked.result(60)
    assert caught.value.args[0] == 409
    assert api.get_progress()["state"]["job_count"] == 0


def test_a_key_neither_sees_nor_interrupts_the_requests_of_another(demo_bundle: Path, unet: Unet) -> None:
    keys = ["the-key-of-the-first", "the-key-of-the-second"]
    with (
        serving(demo_bundle, unet.opening(demo_bundle), api_keys=ApiKeys(keys)) as server,
        ThreadPoolExecutor(1) as threads,
    ):
        mine, other = (webuiapi.WebUIApi(host="127.0.0.1", port=server.port) for _ in keys)
        for api, key in zip((mine, other), keys, strict=True):
            api.session.headers["Authorization"] = f"Bearer {key}"
        unet.shut()
        asked = threads.submit(mine.txt2img, prompt="a star", **SMALL)
        until(lambda: server.service.under_way == 1)
        other.interrupt()
        assert other.get_progress()["state"]["job_count"] == 0
        assert mine.get_progress()["state"]["job_count"] == 1
        unet.gate.set()
        assert len(asked.result(60).images) == 1
