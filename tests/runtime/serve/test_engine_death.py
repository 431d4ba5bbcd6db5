"""Engines that give NaN, die, or do not open: never a black picture, and back as soon as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from latentrt import Pipeline
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import BundleError, EngineError
from latentrt.runtime.serve import supervision
from latentrt.runtime.serve.server import listen, run
from latentrt.runtime.serve.service import Service
from latentrt.runtime.serve.settings import ServeSettings
from support.serving import Running, Unet, serving, until


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE", 0.01)


def test_nan_is_an_error_and_a_figure_and_never_a_black_picture(running: Running, unet: Unet) -> None:
    unet.spoilt = True
    answer = running.draw()
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "nan_picture"
    assert running.metric("latentrt_nan_total") == 1
    assert running.metric("latentrt_request_seconds_count", outcome="nan") == 1


def test_engines_that_give_nan_are_opened_again(running: Running, unet: Unet) -> None:
    unet.spoilt = True
    assert running.draw().status_code == 500
    until(lambda: running.client.get("/readyz").status_code == 503, "the end of readiness")
    assert running.draw().json()["error"]["code"] == "not_ready"
    until(lambda: unet.opened > 3, "more tries")
    unet.spoilt = False
    until(lambda: running.service.ready, "readiness")
    assert running.draw().status_code == 200
    assert running.metric("latentrt_opened_total") == 2


def test_an_engine_that_dies_takes_readiness_with_it_until_it_is_opened_again(running: Running, unet: Unet) -> None:
    unet.dead = True
    lost = running.draw()
    assert (lost.status_code, lost.json()["error"]["code"]) == (503, "engine_failed")
    until(lambda: not running.service.ready, "the end of readiness")
    assert running.client.get("/healthz").json()["status"] == "not ready"
    assert running.metric("latentrt_ready") == 0
    unet.dead = False
    until(lambda: running.service.ready, "readiness")
    assert running.draw().status_code == 200


def fails_at_once() -> Pipeline:
    raise EngineError("no engine was built for this machine")


def spoilt_from_the_start(bundle: Path) -> Callable[[], Pipeline]:
    unet = Unet()
    unet.spoilt = True
    return unet.opening(bundle)


@pytest.mark.parametrize("kind", ["fails", "spoilt"])
def test_what_does_not_open_or_fails_its_probe_the_first_time_ends_the_server(demo_bundle: Path, kind: str) -> None:
    opening = fails_at_once if kind == "fails" else spoilt_from_the_start(demo_bundle)
    service = Service(Bundle.open(demo_bundle), ServeSettings(), opening)
    words = "no engine was built" if kind == "fails" else "NaN or infinity"
    with listen("127.0.0.1", 0) as listener, pytest.raises(EngineError, match=words):
        run(service, listener)
    assert not service.ready


def test_a_bundle_that_is_damaged_meanwhile_is_tried_again(demo_bundle: Path, unet: Unet) -> None:
    damaged = False
    opening = unet.opening(demo_bundle)

    def opened() -> Pipeline:
        if damaged:
            raise BundleError("unet.safetensors has another hash")
        return opening()

    with serving(demo_bundle, opened) as running:
        damaged, unet.dead = True, True
        assert running.draw().status_code == 503
        until(lambda: not running.service.ready)
        damaged, unet.dead = False, False
        until(lambda: running.service.ready, "readiness")
        assert running.draw().status_code == 200
