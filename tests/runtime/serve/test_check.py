"""Whether the engines draw, for whoever asks every few seconds: work is proof, and a probe is one step now and then."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from threading import Thread

import pytest

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import EngineError
from latentrt.runtime.serve import supervision
from latentrt.runtime.serve.service import Service
from latentrt.runtime.serve.settings import ServeSettings
from support.serving import PATIENCE, Running, Unet, until


def check(running: Running) -> None:
    assert running.server.loop is not None
    asyncio.run_coroutine_threadsafe(running.service.check(), running.server.loop).result(PATIENCE)


def test_idle_engines_draw_one_step_for_a_check(running: Running, unet: Unet) -> None:
    check(running)  # the probe of their opening is proof
    assert unet.rows == [2]
    check(running)
    assert unet.rows == [2, 2]


def test_checks_of_idle_engines_take_a_share_of_the_time(running: Running, unet: Unet) -> None:
    unet.pause = 0.5
    for _ in range(5):
        check(running)
    assert len(unet.rows) == 2


def test_what_was_drawn_is_proof(running: Running, unet: Unet) -> None:
    for _ in range(3):
        assert running.draw(num_inference_steps=2).status_code == 200
        check(running)
    assert len(unet.rows) == 1 + 3 * 2


def test_a_check_joins_others_for_one_step(running: Running, unet: Unet) -> None:
    unet.shut()
    drawing = Thread(target=running.draw, kwargs={"num_inference_steps": 100})
    drawing.start()
    until(unet.reached.is_set, "a step")
    check(running)  # a text was encoded
    checking = Thread(target=check, args=[running])
    checking.start()
    while checking.is_alive():
        unet.step()
        checking.join(0.01)
    unet.gate.set()
    drawing.join()
    assert Counter(unet.rows[1:]) == {2: 99, 4: 1}


def test_dead_engines_fail_it_until_they_are_open_again(
    running: Running, unet: Unet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE", 0.01)
    check(running)
    unet.dead = True
    with pytest.raises(EngineError, match="the device was lost"):
        check(running)
    until(lambda: not running.service.ready, "the end of readiness")
    with pytest.raises(EngineError, match="not open"):
        check(running)
    unet.dead = False
    until(lambda: running.service.ready, "readiness")
    check(running)


def test_the_first_check_waits_for_the_engines_or_says_why_there_are_none(demo_bundle: Path) -> None:
    unet = Unet()
    unet.dead = True

    async def first() -> None:
        service = Service(Bundle.open(demo_bundle), ServeSettings(), unet.opening(demo_bundle))
        service.start()
        try:
            await service.check()
        finally:
            await service.close()

    with pytest.raises(EngineError, match="the device was lost"):
        asyncio.run(first())
    unet.dead = False
    asyncio.run(first())
    assert unet.opened == 2
