"""Which requests the next call of the UNet answers: the one policy of all that draws. Pure: values in, values out.

A call holds one group, a latent size and a length of texts, since all its rows have one shape.

- Groups take turns: the one served longest ago is next. A group that comes new goes before them, so that its first
  request waits for no more than the call in flight; but of two turns in a row at most one is a newcomer's.
- Within a group those with the fewest steps go first, the earliest arrival among equals: a short request is in every
  call until it ends, whatever long ones are there. All its steps count, not those that remain: long requests near their
  end would keep it out.
- In each call one of those who waited `PATIENCE` turns of their group goes before all others, the one who waited
  longest. It is one of them only: were it all, many long requests would keep a short one out.
- What does not fit in the rows that are left is passed over for what does. The first always gets its answer: a request
  that alone has more rows than a call may have is served by itself.

So a request waits at most `PATIENCE` + n - 1 turns of its group, with n requests in the group when it came or was last
served; and a group at most 2g - 1 turns of others, with g groups then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

PATIENCE = 4  # turns of its group that a request may be passed over before it goes first

Group: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Waiting:
    """A request with an open question.

    Attributes:
        id: which; a later arrival has a greater one.
        group: what the rows of one call have in common.
        rows: of the UNet that the question needs.
        steps: all that the request has, done or not.
    """

    id: int
    group: Group
    rows: int
    steps: int


@dataclass(frozen=True)
class Past:
    """What earlier calls leave to be remembered.

    Attributes:
        waited: by request, the turns of its group since it was last served or came.
        served: the groups by their last turn, the longest ago first.
        was_new: whether the last turn was the first one of its group.
    """

    waited: Mapping[int, int] = field(default_factory=dict)
    served: tuple[Group, ...] = ()
    was_new: bool = False


@dataclass(frozen=True)
class Choice:
    """The requests that the next call answers, and what is to be remembered at the one after it."""

    ids: tuple[int, ...]
    past: Past


def choose(waiting: Sequence[Waiting], max_rows: int, past: Past) -> Choice:
    """Choose for a call of at most `max_rows` rows; nobody where nobody waits. Requests that are gone are forgotten."""
    in_order = sorted(waiting, key=lambda one: one.id)
    groups = list(dict.fromkeys(one.group for one in in_order))
    if not groups:
        return Choice((), Past())
    known = [group for group in past.served if group in groups]
    new = [group for group in groups if group not in known]
    is_new = bool(new) and not (known and past.was_new)
    group = new[0] if is_new else known[0]
    ids = _fitting(_ranked([one for one in in_order if one.group == group], past.waited), max_rows)
    waited = {one.id: 0 if one.id in ids else past.waited.get(one.id, 0) + (one.group == group) for one in in_order}
    served = (*(other for other in known if other != group), group)
    return Choice(ids, Past(waited, served, is_new))


def _ranked(asking: Sequence[Waiting], waited: Mapping[int, int]) -> list[Waiting]:
    """The requests of a group, which are in order of arrival, by who is to be served first."""
    ranked = sorted(asking, key=lambda one: one.steps)
    longest = max(asking, key=lambda one: waited.get(one.id, 0))  # the first to arrive of several
    if waited.get(longest.id, 0) >= PATIENCE:
        ranked.remove(longest)
        ranked.insert(0, longest)
    return ranked


def _fitting(ranked: Sequence[Waiting], max_rows: int) -> tuple[int, ...]:
    ids: list[int] = []
    left = max_rows
    for one in ranked:
        if one.rows <= left or not ids:
            ids.append(one.id)
            left -= one.rows
    return tuple(ids)
