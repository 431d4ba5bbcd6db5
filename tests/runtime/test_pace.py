"""How many pictures take no longer than a step."""

from __future__ import annotations

from latentrt.runtime.pace import Pace


def test_as_many_pictures_as_fit_a_step_and_at_least_one() -> None:
    pace = Pace()
    assert pace.pictures("small") == 1  # nobody knows yet
    pace.stepped(1.0)
    assert pace.pictures("small") == 1
    pace.decoded("small", 2, 0.5)
    assert pace.pictures("small") == 4
    assert pace.pictures("large") == 1  # of a kind that was never decoded
    pace.decoded("large", 1, 3.0)
    assert pace.pictures("large") == 1


def test_the_estimate_follows_what_is_measured() -> None:
    pace = Pace()
    pace.stepped(1.0)
    pace.decoded("small", 1, 1.0)  # the first call is slow
    for _ in range(40):
        pace.decoded("small", 4, 0.4)
        pace.stepped(0.5)
    assert pace.pictures("small") in {4, 5}  # a tenth of a second each
