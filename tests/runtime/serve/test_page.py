"""The page in a real browser: a picture comes to be, is cancelled, fails; and what the page asks the server."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt import Pipeline
from latentrt.engines.manifest import FILE_NAME
from latentrt.runtime.serve.api_keys import ApiKeys
from support.serving import Running, Unet, serving, until

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
PROMPT = "a red circle on a blue background"
WAIT = 60_000  # milliseconds: a test that waits longer has failed
# notes each picture that is put on screen, as its address
WATCH = """
window.seen = [];
new MutationObserver(() => window.seen.push([picture.src, picture.alt])).observe(picture, { attributeFilter: ["alt"] });
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any, running: Running) -> Iterator[Any]:
    """The page of `running`; it must have no error of its own, and load nothing from elsewhere."""
    context = browser.new_context(accept_downloads=True)
    page, wrong = context.new_page(), []
    page.set_default_timeout(WAIT)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: request.url.startswith((running.url, "blob:")) or wrong.append(request.url))
    page.on("console", lambda line: "Content Security Policy" in line.text and wrong.append(line.text))
    page.goto(running.url)
    sync_api.expect(page.locator("#sampler option").first).to_be_attached(timeout=WAIT)
    yield page
    context.close()
    assert wrong == []


def status(page: Any, words: str) -> None:
    sync_api.expect(page.locator("#status")).to_contain_text(words, timeout=WAIT)


@in_browser
def test_a_picture_comes_to_be_step_by_step(page: Any, unet: Unet, demo_bundle: Path, tmp_path: Path) -> None:
    page.evaluate(WATCH)
    unet.shut()
    page.fill("#prompt", PROMPT)
    for name, value in {"num_inference_steps": "6", "seed": "7", "guidance_scale": "5"}.items():
        page.fill(f"#{name}", value)
    page.select_option("#sampler", "ddim")
    page.select_option("#decoder", "ft-mse")
    page.locator("#prompt").press("Control+Enter")
    for step in range(1, 6):
        unet.step()
        status(page, f"Step {step} of 6")
    unet.gate.set()
    status(page, "Done.")
    seen = page.evaluate("seen")
    previews = {source for source, words in seen if words.startswith("Preview")}
    assert len(previews) >= 5
    assert seen[-1][0] not in previews
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "latentrt-7.png"
    download.value.save_as(tmp_path / "picture.png")
    options = {"num_inference_steps": 6, "seed": 7, "guidance_scale": 5.0, "sampler": "ddim", "decoder": "ft-mse"}
    with Pipeline.open(demo_bundle, engine="fake") as pipe:
        expected = pipe.generate(PROMPT, **options)
    with Image.open(tmp_path / "picture.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected.images[0]))
        facts = {key.removeprefix("latentrt:"): value for key, value in picture.text.items()}
    assert facts == expected.facts[0]
    assert page.locator("#facts dd").first.text_content() == PROMPT


@in_browser
def test_what_is_cancelled_frees_its_rows_and_the_next_one_is_drawn(page: Any, running: Running, unet: Unet) -> None:
    unet.shut()
    page.fill("#prompt", "a star")
    page.click("#generate")
    until(lambda: running.service.under_way == 1)
    page.keyboard.press("Escape")
    status(page, "Cancelled.")
    until(lambda: running.service.under_way == 0)
    unet.gate.set()
    for count in (1, 2):
        page.fill("#num_inference_steps", "2")
        page.click("#generate")
        sync_api.expect(page.locator("#history button")).to_have_count(count, timeout=WAIT)
    first = page.locator("#history button").last
    first.click()
    shown = page.evaluate("picture.src")
    assert shown == first.locator("img").get_attribute("src")


@in_browser
def test_errors_are_said_and_the_page_goes_on(page: Any, unet: Unet) -> None:
    error = page.locator("#error")
    page.fill("#prompt", "a (star:x")
    page.select_option("#prompt_syntax", "weighted")
    unet.spoilt = True
    page.fill("#num_inference_steps", "2")
    page.click("#generate")
    sync_api.expect(error).to_contain_text("NaN or infinity", timeout=WAIT)
    status(page, "No picture.")
    page.fill("#width", "100")  # the browser itself refuses what is no multiple
    page.click("#generate")
    assert page.evaluate("form.checkValidity()") is False
    assert error.is_visible()


@in_browser
def test_it_fits_a_phone_and_follows_the_colours_of_the_system(browser: Any, running: Running) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
        page = context.new_page()
        page.goto(running.url)
        sync_api.expect(page.locator("#sampler option").first).to_be_attached(timeout=WAIT)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        unlabelled = "[...form.elements].filter(one => one.name && !one.labels.length).length"
        assert page.evaluate(unlabelled) == 0
        context.close()
    assert len(grounds) == 2


@in_browser
def test_a_server_with_keys_is_asked_with_one(browser: Any, demo_bundle: Path, unet: Unet) -> None:
    key = "a-key-that-is-long-enough"
    with serving(demo_bundle, unet.opening(demo_bundle), api_keys=ApiKeys([key])) as server:
        page = browser.new_page()
        page.goto(server.url)
        sync_api.expect(page.locator("#error")).to_contain_text("API keys", timeout=WAIT)
        page.fill("#key", key)
        page.locator("#key").press("Tab")
        sync_api.expect(page.locator("#sampler option").first).to_be_attached(timeout=WAIT)
        page.fill("#num_inference_steps", "2")
        page.click("#generate")
        status(page, "Done.")
        page.close()


def test_the_page_takes_nothing_from_elsewhere(running: Running) -> None:
    for path in ("/", "/page.css", "/page.js", "/page.svg"):
        answer = running.client.get(path)
        assert answer.status_code == 200
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'; img-src 'self' blob:;")
        assert re.findall(r"\w+://(?!www\.w3\.org/2000/svg)", answer.text) == []


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    pairs = [part.split("\n", 1) for part in text.strip().split("\n\n")]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in pairs]


def test_a_stream_tells_of_each_step_and_ends_with_the_picture(running: Running, demo_bundle: Path) -> None:
    fields = {"prompt": "a star", "num_inference_steps": 3, "seed": 2**32 - 1, "width": 96}
    told = events(running.client.post("/api/pictures", json=fields).text)
    steps, (kind, last) = [data for kind, data in told if kind == "progress"], told[-1]
    assert kind == "picture"
    assert steps[-1]["step"] == steps[-1]["steps"] == 3
    with Image.open(io.BytesIO(base64.b64decode(steps[-1]["preview"]))) as preview:
        assert (preview.format, preview.size) == ("JPEG", (96, 128))
    with Pipeline.open(demo_bundle, engine="fake") as pipe:
        expected = pipe.generate(**fields)
    assert last["facts"] == expected.facts[0]
    assert (last["seed"], last["flagged"]) == (2**32 - 1, False)
    with Image.open(io.BytesIO(base64.b64decode(last["png"]))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected.images[0]))


def test_an_error_on_the_way_is_an_event_with_problem_details(running: Running, unet: Unet) -> None:
    unet.spoilt = True
    kind, data = events(running.client.post("/api/pictures", json={"prompt": "a star"}).text)[-1]
    assert (kind, data["status"], data["code"]) == ("error", 500, "nan_picture")


def test_what_can_be_asked_is_told(running: Running) -> None:
    told = running.client.get("/api/model").json()
    assert (told["name"], told["default_size"], told["size_multiple"], told["previews"]) == ("demo", 128, 32, True)
    assert told["decoders"] == ["kl-f8", "ft-ema", "ft-mse"]
    beyond = {"prompt": "a star", "num_inference_steps": told["max_steps"] + 1}
    refused = running.client.post("/api/pictures", json=beyond)
    assert refused.status_code == 422
    assert refused.headers["Content-Type"] == "application/problem+json"


def test_a_bundle_of_before_is_drawn_without_previews(demo_bundle: Path, unet: Unet, tmp_path: Path) -> None:
    old = Path(shutil.copytree(demo_bundle, tmp_path / "old", copy_function=os.link))
    content = json.loads((old / FILE_NAME).read_bytes())
    del content["preview"]
    (old / FILE_NAME).unlink()  # it is a link to the other bundle's
    (old / FILE_NAME).write_text(json.dumps(content))
    with serving(old, unet.opening(old)) as server:
        assert server.client.get("/api/model").json()["previews"] is False
        told = events(server.client.post("/api/pictures", json={"prompt": "a star", "num_inference_steps": 2}).text)
    assert {data["preview"] for kind, data in told if kind == "progress"} == {None}
    assert told[-1][0] == "picture"
