"""One piece of work of a pipeline's own thread, as listeners hear of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["encode", "step", "decode"]


@dataclass(frozen=True)
class Turn:
    """What the thread did, for how many requests at once, and how long it took.

    `rows` are texts of an "encode", rows of the UNet of a "step", pictures of a "decode".
    """

    kind: Kind
    requests: int
    rows: int
    seconds: float
