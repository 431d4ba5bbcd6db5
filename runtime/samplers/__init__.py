"""The samplers by name, each with the schedule that diffusers' class takes from SD 1.5's scheduler config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

from latentrt.engines.errors import InputError, unknown_name

from ..query import Sampler
from ..schedule import (
    NoiseTable,
    Schedule,
    Spacing,
    ddpm_schedule,
    dpm_solver_schedule,
    k_diffusion_schedule,
    karras_ramp,
)
from .ddim import ddim
from .dpmpp import dpmpp_2m
from .euler import euler, euler_ancestral
from .pndm import pndm

ScheduleBuilder: TypeAlias = Callable[[NoiseTable, int, Spacing], Schedule]


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler and the schedules that go with it."""

    sample: Sampler
    schedule: ScheduleBuilder
    spacing: Spacing  # the default of diffusers' class
    karras: ScheduleBuilder | None = None  # None where diffusers' class takes no Karras sigmas


_k_karras = partial(k_diffusion_schedule, ramp=karras_ramp)
_dpm_karras = partial(dpm_solver_schedule, ramp=karras_ramp)

SAMPLERS: Mapping[str, SamplerSpec] = MappingProxyType(
    {
        "euler": SamplerSpec(euler, k_diffusion_schedule, "linspace", _k_karras),
        "euler_ancestral": SamplerSpec(euler_ancestral, k_diffusion_schedule, "linspace"),
        "ddim": SamplerSpec(ddim, ddpm_schedule, "leading"),
        "pndm": SamplerSpec(pndm, ddpm_schedule, "leading"),
        "dpmpp_2m": SamplerSpec(dpmpp_2m, dpm_solver_schedule, "linspace", _dpm_karras),
    }
)


def get_sampler(name: str) -> SamplerSpec:
    """The sampler of this name.

    Raises:
        InputError: there is none; the message offers the nearest name.
    """
    try:
        return SAMPLERS[name]
    except KeyError:
        raise unknown_name("sampler", name, SAMPLERS) from None


def prepare(name: str, table: NoiseTable, steps: int, karras: bool = False) -> Schedule:
    """The schedule of sampler `name` over `steps` steps, with its own spacing or with Karras noise levels.

    The caller applies its scales: `get_sampler(name).sample(unit_noise * schedule.init_scale, schedule, noise)`, and
    the latent is the coroutine's result `* schedule.final_scale`.

    Raises:
        InputError: unknown name, steps out of range, or Karras asked of a sampler that takes none.
    """
    spec = get_sampler(name)
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= table.num_train_timesteps:
        raise InputError(f"steps must be a whole number from 1 to {table.num_train_timesteps}, not {steps!r}")
    if not karras:
        return spec.schedule(table, steps, spec.spacing)
    if spec.karras is None:
        takers = ", ".join(known for known, other in SAMPLERS.items() if other.karras)
        raise InputError(f"sampler {name!r} takes no Karras schedule; these do: {takers}")
    return spec.karras(table, steps, spec.spacing)
