"""The activation memory that engines share: as large as the largest, one user at a time, given back in the end."""

from __future__ import annotations

import threading
from dataclasses import replace

from latentrt.engines.scratch import Scratch
from latentrt.engines.tensorrt_rtx_backend import BACKEND
from latentrt.engines.trt.arena import Arena


class Host:
    """Memory that counts how much of its kind is held."""

    held: list[int]

    def __init__(self, size: int) -> None:
        self.size, self.address = size, id(self)
        Host.held.append(size)

    def close(self) -> None:
        Host.held.remove(self.size)


def arena() -> Arena:
    Host.held = []
    return Arena(Host)


def test_it_grows_to_the_largest_and_never_holds_two() -> None:
    shared = arena()
    for asked, held in ((1000, 1000), (300, 1000), (5000, 5000), (0, 5000)):
        with shared.held(asked) as memory:
            assert memory.size == held
            assert Host.held == [held]


def test_nothing_asked_for_is_still_an_address() -> None:
    with arena().held(0) as memory:
        assert memory.address
        assert memory.size == 256


def test_the_last_to_leave_gives_it_back() -> None:
    shared = arena()
    shared.join()
    shared.join()
    with shared.held(10):
        pass
    shared.leave()
    assert Host.held == [256]
    shared.leave()
    assert Host.held == []


def test_one_user_at_a_time() -> None:
    shared, order = arena(), []

    def other() -> None:
        with shared.held(10):
            order.append("second")

    with shared.held(10):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_engines_of_one_pipeline_and_gpu_share_whichever_thread_opens_them() -> None:
    pipeline, other = Scratch(), Scratch()
    first = BACKEND.sharing(pipeline)
    assert first._arena() is BACKEND.sharing(pipeline)._arena()
    assert first._arena() is not BACKEND.sharing(other)._arena()
    assert first._arena() is not replace(first, device=1)._arena()
    elsewhere: list[Arena] = []
    thread = threading.Thread(target=lambda: elsewhere.append(first._arena()))
    thread.start()
    thread.join()
    assert elsewhere == [first._arena()]


def test_an_engine_of_no_pipeline_has_its_own() -> None:
    assert BACKEND._arena() is not BACKEND._arena()
