"""Nested phases become one share, which only grows; what the report raises stops the build."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from latentrt.engines.trt.progress import Progress


def test_a_step_inside_a_step_counts_its_part() -> None:
    told: list[tuple[str, float]] = []
    progress = Progress(lambda doing, share: told.append((doing, share)))
    progress.start("Building engine", None, 4)
    progress.step("Building engine", 0)
    progress.start("Timing tactics", "Building engine", 2)
    progress.step("Timing tactics", 0)
    progress.finish("Timing tactics")
    progress.step("Building engine", 1)
    progress.finish("Building engine")
    assert told == [
        ("building engine", 0),
        ("building engine", 0.25),
        ("timing tactics", 0.25),
        ("timing tactics", 0.375),
        ("building engine", 0.5),
    ]


def test_the_share_never_falls_nor_passes_one() -> None:
    told: list[float] = []
    progress = Progress(lambda _, share: told.append(share))
    progress.start("a", None, 2)
    for step in range(5):  # more than were announced
        progress.step("a", step)
    progress.finish("a")
    progress.start("b", None, 2)
    assert told == sorted(told)
    assert told[-1] == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a broken report")])
def test_what_the_report_raises_stops_the_build(error: BaseException) -> None:
    def report(_doing: str, share: float) -> None:
        if share > 0:
            raise error

    progress = Progress(report)
    progress.start("a", None, 2)
    assert progress.stopped is None
    assert not progress.step("a", 0)
    assert progress.stopped is error


def test_what_goes_wrong_in_telling_stops_the_build_and_never_reaches_the_library() -> None:
    progress = Progress(lambda _doing, _share: None)
    unknown: Any = None
    progress.start("a", None, unknown)
    assert isinstance(progress.stopped, TypeError)


def test_the_library_s_threads_take_turns() -> None:
    """It calls from several; the report, a bar on a terminal, say, is one thread's at a time."""
    inside, met = 0, []

    def report(_doing: str, _share: float) -> None:
        nonlocal inside
        inside += 1
        met.append(inside)
        time.sleep(0.02)
        inside -= 1

    progress = Progress(report)
    threads = [threading.Thread(target=progress.start, args=(name, None, 2)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == [1, 1, 1, 1]
    assert progress.stopped is None


def test_a_signal_handler_may_stop_it_while_a_report_runs() -> None:
    progress = Progress(lambda _doing, _share: progress.stop(KeyboardInterrupt()))
    progress.start("a", None, 2)
    assert not progress.step("a", 0)
    assert isinstance(progress.stopped, KeyboardInterrupt)
