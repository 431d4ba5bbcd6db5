"""The policy, as properties: nobody starves, rows are bounded, arrival counts among equals, short ones go through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from latentrt.runtime.scheduling import PATIENCE, Group, Past, Waiting, choose

NARROW, WIDE, LONG = (16, 16, 77), (16, 24, 77), (16, 16, 154)
MAX_ROWS = 8


@dataclass(frozen=True)
class Asked:
    """A request that comes before turn `comes`, and may be cancelled before turn `goes`."""

    comes: int
    group: Group
    rows: int
    steps: int
    goes: int = 10**9


@dataclass(frozen=True)
class Turn:
    """One call: who waited, and who was served."""

    waiting: tuple[Waiting, ...]
    served: tuple[int, ...]


def drawn(asked: Sequence[Asked], max_rows: int = MAX_ROWS) -> list[Turn]:
    """Every turn until all are done; a request's id is its place in the order of arrival."""
    asked = sorted(asked, key=lambda one: one.comes)
    left = {i: one.steps for i, one in enumerate(asked)}
    past, turns = Past(), list[Turn]()
    while any(left.values()):
        now = len(turns)
        left = {i: 0 if one.goes <= now else left[i] for i, one in enumerate(asked)}
        waiting = tuple(
            Waiting(i, one.group, one.rows, one.steps)
            for i, one in enumerate(asked)
            if left[i] and one.comes <= now < one.goes
        )
        choice = choose(waiting, max_rows, past)
        past = choice.past
        for i in choice.ids:
            left[i] -= 1
        turns.append(Turn(waiting, choice.ids))
        assert len(turns) < 10_000
    return turns


quickly = settings(max_examples=80, deadline=None)
groups = st.sampled_from([NARROW, WIDE, LONG])
requests = st.builds(Asked, st.integers(0, 40), groups, st.integers(1, 10), st.integers(1, 30))
crowds = st.lists(requests, min_size=1, max_size=24)


@quickly
@given(crowds)
def test_a_call_holds_one_group_and_no_more_rows_than_it_may(asked: list[Asked]) -> None:
    for turn in drawn(asked):
        served = [one for one in turn.waiting if one.id in turn.served]
        assert len(served) == len(turn.served) == len(set(turn.served))
        assert len({one.group for one in served}) <= 1
        assert sum(one.rows for one in served) <= MAX_ROWS or len(served) == 1
        assert bool(served) == bool(turn.waiting)  # no call is wasted


@quickly
@given(crowds)
def test_a_request_waits_no_longer_than_the_bound(asked: list[Asked]) -> None:
    """At most PATIENCE + n - 1 turns of its group, with n requests there when it came or was last served."""
    waited: dict[int, int] = {}
    bound: dict[int, int] = {}
    for turn in drawn(asked):
        group = next((one.group for one in turn.waiting if one.id in turn.served), None)
        there = [one for one in turn.waiting if one.group == group]
        for one in turn.waiting:
            beside = sum(other.group == one.group for other in turn.waiting)
            bound.setdefault(one.id, PATIENCE + beside - 1)
        for one in there:
            if one.id in turn.served:
                waited[one.id] = 0
                bound[one.id] = PATIENCE + len(there) - 1
            else:
                waited[one.id] = waited.get(one.id, 0) + 1
                assert waited[one.id] <= bound[one.id]


@quickly
@given(crowds, st.integers(2, 60))
def test_a_group_waits_no_longer_than_the_bound_though_new_ones_keep_coming(asked: list[Asked], flood: int) -> None:
    """At most 2g - 1 turns of others, with g groups there when it came or was last served; each newcomer is a group."""
    crowd = [*asked, *(Asked(i, (i, 0, 0), 2, 1 + i % 3) for i in range(flood))]
    idle: dict[Group, int] = {}
    bound: dict[Group, int] = {}
    for turn in drawn(crowd):
        there = {one.group for one in turn.waiting}
        idle = {group: turns for group, turns in idle.items() if group in there}
        for group in there - idle.keys():
            idle[group], bound[group] = 0, 2 * len(there) - 1
        for one in turn.waiting:
            if one.id in turn.served:
                idle[one.group], bound[one.group] = -1, 2 * len(there) - 1
        for group in idle:
            idle[group] += 1
            assert idle[group] <= bound[group]


@quickly
@given(crowds, groups, st.integers(1, 10), st.integers(1, 20), st.lists(st.integers(0, 40), min_size=2, max_size=12))
def test_of_equal_requests_the_earlier_ends_no_later(
    others: list[Asked], group: Group, rows: int, steps: int, comes: list[int]
) -> None:
    equal = [Asked(turn, group, rows, steps) for turn in sorted(comes)]
    asked = sorted([*others, *equal], key=lambda one: one.comes)
    ends: dict[int, int] = {}
    for number, turn in enumerate(drawn(asked)):
        ends |= dict.fromkeys(turn.served, number)
    like = [i for i, one in enumerate(asked) if (one.group, one.rows, one.steps) == (group, rows, steps)]
    assert [ends[i] for i in like] == sorted(ends[i] for i in like)


@quickly
@given(crowds, st.data())
def test_who_is_cancelled_is_never_chosen_and_leaves_the_rows_to_others(
    asked: list[Asked], data: st.DataObject
) -> None:
    gone = {i: data.draw(st.integers(0, 30)) for i in range(len(asked)) if data.draw(st.booleans())}
    crowd = [replace(one, goes=gone.get(i, one.goes)) for i, one in enumerate(asked)]
    in_order = sorted(crowd, key=lambda one: one.comes)
    for number, turn in enumerate(drawn(crowd)):
        assert all(in_order[i].goes > number for i in turn.served)
        left = MAX_ROWS - sum(one.rows for one in turn.waiting if one.id in turn.served)
        groups = {one.group for one in turn.waiting if one.id in turn.served}
        passed = [one for one in turn.waiting if one.id not in turn.served and one.group in groups]
        assert all(one.rows > left for one in passed)  # no rows are kept for anybody who is not there


@quickly
@given(st.integers(1, 40), st.integers(0, 49), st.integers(2, MAX_ROWS))
def test_a_short_request_among_long_ones_is_in_every_call_until_it_ends(crowd: int, comes: int, max_rows: int) -> None:
    """However many wait, for however long, and however near their end: only one of them goes before it."""
    turns = drawn([*(Asked(0, NARROW, 1, 50) for _ in range(crowd)), Asked(comes, NARROW, 1, 4)], max_rows)
    assert all(crowd in turn.served for turn in turns[comes : comes + 4])


def test_a_new_group_is_served_next() -> None:
    turns = drawn([Asked(0, NARROW, 2, 20), Asked(0, WIDE, 2, 20), Asked(5, LONG, 2, 3)])
    assert 2 in turns[5].served


@quickly
@given(crowds)
def test_the_same_requests_are_served_in_the_same_order(asked: list[Asked]) -> None:
    assert drawn(asked) == drawn(asked)
    one = drawn(asked)[0]
    assert choose(one.waiting, MAX_ROWS, Past()) == choose(one.waiting[::-1], MAX_ROWS, Past())
