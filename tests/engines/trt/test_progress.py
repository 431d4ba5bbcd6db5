"""Nested phases become one share, which only grows; what the report raises stops the build."""

from __future__ import annotations

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
