"""The HTML report: one file that asks nothing of a network, whoever wrote its prompts."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from latentrt.benchmarks.report import write_report
from latentrt.benchmarks.report.pictures import amplification, rows
from latentrt.benchmarks.trial.results import Conditions, Results
from latentrt.engines.errors import OutputError
from support.trials import HOSTILE, contestant, failed, results, whole, with_pictures

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Page(HTMLParser):
    """What a page refers to, and the ids and headings that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "srcset", "poster", "data", "action"} and value:
                self.references.append(value)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(found: Results, folder: Path) -> tuple[Path, Page, str]:
    [_, html] = write_report(found, folder)
    text = html.read_text(encoding="utf-8")
    return html, Page(text), text


def hostile(folder: Path) -> Results:
    found = {"torch": contestant(2.0, notes=(HOSTILE,)), HOSTILE: contestant(1.0, 1e-4), "c": failed(HOSTILE)}
    conditions = Conditions(others=1.5, worst_others=2.0, noisy=(HOSTILE,))
    return with_pictures(results(found, settings={"prompts": (HOSTILE, "")}, conditions=conditions), folder)


@pytest.fixture(scope="module", params=["whole", "failed", "bare", "hostile"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page, str]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "whole":
        found = with_pictures(whole(), folder)
    elif request.param == "failed":
        found = results({"latentrt": failed("it crashed")}, settings={"batches": (), "concurrency": ()})
    elif request.param == "bare":
        found = results({"latentrt": contestant(1.0, batches=(), concurrency=(), parts={}, components={}, quality={})})
    else:
        found = hostile(folder)
    return page_of(found, folder)


def test_nothing_is_asked_of_a_network_and_no_script_runs(opened: tuple[Path, Page, str]) -> None:
    _, page, text = opened
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert "url(http" not in text
    assert "@import" not in text
    assert page.of("script") == []
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_ids_are_unique_and_links_arrive(opened: tuple[Path, Page, str]) -> None:
    _, page, _ = opened
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    inside = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert inside <= set(ids)


def test_it_can_be_read_without_eyes(opened: tuple[Path, Page, str]) -> None:
    _, page, text = opened
    assert all(attrs.get("alt") for attrs in page.of("img"))
    assert all(attrs.get("aria-labelledby") for attrs in page.of("svg"))
    assert all(attrs.get("scope") in {"col", "row"} for attrs in page.of("th"))
    assert len(page.of("caption")) == len(page.of("table"))
    assert len(page.of("h1")) == 1
    assert 'lang="en"' in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the tests above parse the page instead")
def test_a_real_browser_opens_it_quietly(opened: tuple[Path, Page, str], tmp_path: Path) -> None:
    asked, console = visited(opened[0], tmp_path)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert console == ""


def test_every_sample_is_drawn(tmp_path: Path) -> None:
    _, page, text = page_of(whole(), tmp_path)
    latency = text.split('aria-labelledby="latency-title"')[1].split("</svg>")[0]
    samples = sum(
        len(one.latency["prompt to PNG bytes"].samples) for one in whole().contestants.values() if one.latency
    )
    assert latency.count("<use ") >= samples
    assert len(page.of("svg")) == 7


def test_failures_and_noise_are_told_before_any_section(tmp_path: Path) -> None:
    noisy = Conditions(others=1.5, worst_others=2.0, noisy=("others took 1.5 cores",))
    _, _, text = page_of(whole(conditions=noisy), tmp_path)
    first = text.index('id="latency"')
    assert text.index("others took 1.5 cores") < first
    assert text.index("no matching distribution") < first


def test_differences_are_amplified_by_what_is_said(tmp_path: Path) -> None:
    found = with_pictures(whole(), tmp_path)
    [first, _] = rows(found, tmp_path)
    shown = {one.contestant: one for one in first.shown}
    assert first.reference == "torch"
    assert shown["torch"].difference is None
    assert (shown["torch-bf16"].factor, shown["torch-bf16"].largest) == (64, 1)
    assert shown["latentrt"].largest == 2
    assert amplification(np.array([0, 0, 3, 200], np.int16)) == 1
    assert amplification(np.array([0, 15], np.int16)) == 16
    assert amplification(np.zeros(3, np.int16)) == 1
    _, _, text = page_of(found, tmp_path)
    assert "difference × 64; the largest is 1 of 255" in text


def test_a_missing_picture_and_one_from_elsewhere_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    found = with_pictures(whole(), folder)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (folder / found.pictures["torch-bf16"][0]).unlink()
    pictures = found.pictures | {"latentrt": ("../secret.png", found.pictures["latentrt"][1])}
    _, _, text = page_of(msgspec.structs.replace(found, pictures=pictures), folder)
    assert "is not there or is no picture" in text
    assert "../secret.png lies outside of the results" in text


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"report\.md"):
        write_report(whole(), tmp_path / "nowhere")


def visited(page: Path, folder: Path) -> tuple[list[str], str]:
    """The addresses that a real browser asks for when it opens a page from disk, and what its console says."""
    assert CHROMIUM is not None
    log = folder / "net.json"
    options = [*QUIET, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--enable-logging=stderr"]
    command = [CHROMIUM, *options, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "</html>" in ended.stdout
    for _ in range(50):  # the log is closed after the page
        if log.exists() and log.read_text(encoding="utf-8").rstrip().endswith("}"):
            break
        time.sleep(0.1)
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    started = [event["params"] for event in events if {"url", "initiator"} <= event.get("params", {}).keys()]
    asked = [
        params["url"] for params in started if params["initiator"] != "not an origin"
    ]  # that is the browser itself
    return asked, "\n".join(line for line in ended.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_that_asks_for_more_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "loud.html"
    page.write_text('<html><img src="http://127.0.0.1:9/x.png"><script>console.error("loud")</script></html>')
    asked, console = visited(page, tmp_path)
    assert any(url.startswith("http://127.0.0.1:9/") for url in asked)
    assert "loud" in console
