"""The path a sampler takes: so many steps by a spacing's name, or the very timesteps or sigmas that a caller lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from latentrt.engines.errors import InputError, unknown_name

from ..schedule import Array, NoiseTable, Schedule
from .registry import SAMPLERS, SamplerSpec, get_sampler


def prepare(
    name: str,
    table: NoiseTable,
    steps: int,
    spacing: str | None = None,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
) -> Schedule:
    """The schedule of sampler `name` over `steps` steps, spaced as diffusers' class does or as `spacing` says.

    `timesteps`, (steps,), or `sigmas`, (steps + 1,), both descending, say the path itself; then `steps` is not used.
    The last of `sigmas` is where the path ends, 0 for a clean latent.

    The caller applies its scales: `get_sampler(name).sample(unit_noise * schedule.init_scale, schedule, noise)`, and
    the latent is the coroutine's result `* schedule.final_scale`.

    Raises:
        InputError: unknown name, steps out of range, a spacing or list that this sampler does not take, or two of them.
    """
    spec = get_sampler(name)
    given = [
        key for key, value in (("spacing", spacing), ("timesteps", timesteps), ("sigmas", sigmas)) if value is not None
    ]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} each say where the steps go; give one of them")
    if timesteps is not None:
        return _at_timesteps(name, spec, table, timesteps)
    if sigmas is not None:
        return _at_sigmas(name, spec, table, sigmas)
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= table.num_train_timesteps:
        raise InputError(f"steps must be a whole number from 1 to {table.num_train_timesteps}, not {steps!r}")
    return spec.family.from_spacing(table, steps, _checked_spacing(name, spec, spacing))


def _checked_spacing(name: str, spec: SamplerSpec, spacing: str | None) -> str:
    if spacing is None:
        return spec.spacing
    if spacing not in spec.spacings:
        takers = _names(lambda other: spacing in other.spacings)
        if not takers:
            raise unknown_name(
                "spacing", spacing, sorted({known for other in SAMPLERS.values() for known in other.spacings})
            )
        raise InputError(
            f"sampler {name!r} takes no {spacing} spacing, only {', '.join(spec.spacings)}; these take it: {takers}"
        )
    return spacing


def _at_timesteps(name: str, spec: SamplerSpec, table: NoiseTable, timesteps: Sequence[float]) -> Schedule:
    last = table.num_train_timesteps - 1
    values = _descending("timesteps", timesteps, least=1, highest=last)
    if spec.family.whole_timesteps and np.any(values % 1):
        takers = _names(lambda other: not other.family.whole_timesteps)
        raise InputError(f"sampler {name!r} takes whole timesteps only; these take fractions: {takers}")
    return spec.family.from_timesteps(table, values)


def _at_sigmas(name: str, spec: SamplerSpec, table: NoiseTable, sigmas: Sequence[float]) -> Schedule:
    if spec.family.from_sigmas is None:
        takers = _names(lambda other: other.family.from_sigmas is not None)
        raise InputError(f"sampler {name!r} takes no list of sigmas, only of timesteps; these take sigmas: {takers}")
    return spec.family.from_sigmas(table, _descending("sigmas", sigmas, least=2, highest=float("inf")))


def _descending(name: str, values: Sequence[float], least: int, highest: float) -> Array:
    wanted = (
        f"{name} is a list of at least {least} finite numbers from {highest:g} down to 0, each below the one before"
    )
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{wanted}; got {_shown(values)}") from None
    sound = array.ndim == 1 and len(array) >= least and bool(np.isfinite(array).all())
    if not sound or array[0] > highest or array[-1] < 0 or any(b >= a for a, b in pairwise(array.tolist())):
        raise InputError(f"{wanted}; got {_shown(values)}")
    return array


def _shown(values: object) -> str:
    text = repr(values)
    return text if len(text) <= 80 else text[:77] + "..."


def _names(takes: Callable[[SamplerSpec], bool]) -> str:
    return ", ".join(name for name, spec in SAMPLERS.items() if takes(spec))
