"""The seed of a request that names none: it is told with the picture, so that the picture can be drawn again."""

from __future__ import annotations

import secrets

SEED_BITS = 32  # as many as torch's CPU generator uses


def seed_by_lot() -> int:
    """A seed that nobody can foresee."""
    return secrets.randbits(SEED_BITS)
