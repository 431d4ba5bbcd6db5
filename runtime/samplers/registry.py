"""The samplers by name, and what each of them takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from latentrt.engines.errors import InputError, unknown_name

from ..families import DDPM, DDPM_TO_ZERO, DEIS, DPM_SOLVER, K_DIFFUSION, K_DPM2, Family
from ..noise import NoiseSource
from ..query import Latents, Sampler, Sampling
from ..schedule import Schedule
from .consistency import lcm, tcd
from .ddim import ddim, ddpm
from .deis import deis
from .dpm2 import dpm2, dpm2_ancestral
from .dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m_sde
from .dpmpp_single import dpmpp_2s_ancestral, dpmpp_sde
from .euler import euler, euler_ancestral
from .heun import heun
from .lms import lms
from .pndm import plms, pndm, pndm_prk
from .unipc import unipc

SamplerWithEta: TypeAlias = Callable[[Latents, Schedule, NoiseSource, float], Sampling]

# The first is the default of diffusers' class, built from SD 1.5's config.
LEADING = ("leading", "trailing", "linspace")
LINSPACE = ("linspace", "leading", "trailing")
LINSPACE_AND_RAMPS = (*LINSPACE, "karras", "exponential")
DISTILLED = ("distilled",)


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler and the schedules that go with it."""

    sample: Sampler
    family: Family
    spacings: tuple[str, ...]  # that diffusers' class takes, its default first
    stochastic: bool = False
    with_eta: SamplerWithEta | None = None  # None where there is no eta to choose

    @property
    def spacing(self) -> str:
        """The default of diffusers' class."""
        return self.spacings[0]


SAMPLERS: Mapping[str, SamplerSpec] = MappingProxyType(
    {
        "euler": SamplerSpec(euler, K_DIFFUSION, LINSPACE_AND_RAMPS),
        "euler_ancestral": SamplerSpec(euler_ancestral, K_DIFFUSION, LINSPACE, stochastic=True),
        "heun": SamplerSpec(heun, K_DIFFUSION, LINSPACE_AND_RAMPS),
        "lms": SamplerSpec(lms, K_DIFFUSION, LINSPACE_AND_RAMPS),
        "dpm2": SamplerSpec(dpm2, K_DPM2, LINSPACE_AND_RAMPS),
        "dpm2_ancestral": SamplerSpec(dpm2_ancestral, K_DPM2, LINSPACE_AND_RAMPS, stochastic=True),
        "ddim": SamplerSpec(ddim, DDPM, LEADING, with_eta=ddim),
        "ddpm": SamplerSpec(ddpm, DDPM_TO_ZERO, LEADING, stochastic=True),
        "pndm": SamplerSpec(pndm, DDPM, LEADING),
        "pndm_prk": SamplerSpec(pndm_prk, DDPM, ("leading",)),
        "plms": SamplerSpec(plms, DDPM, LEADING),
        "dpmpp_2m": SamplerSpec(dpmpp_2m, DPM_SOLVER, LINSPACE_AND_RAMPS),
        "dpmpp_2m_sde": SamplerSpec(dpmpp_2m_sde, DPM_SOLVER, LINSPACE_AND_RAMPS, stochastic=True),
        "dpmpp_3m_sde": SamplerSpec(dpmpp_3m_sde, DPM_SOLVER, LINSPACE_AND_RAMPS, stochastic=True),
        "dpmpp_2s_ancestral": SamplerSpec(dpmpp_2s_ancestral, K_DIFFUSION, LINSPACE_AND_RAMPS, stochastic=True),
        "dpmpp_sde": SamplerSpec(dpmpp_sde, K_DIFFUSION, LINSPACE_AND_RAMPS, stochastic=True),
        "unipc": SamplerSpec(unipc, DPM_SOLVER, LINSPACE_AND_RAMPS),
        "deis": SamplerSpec(deis, DEIS, LINSPACE_AND_RAMPS),
        "lcm": SamplerSpec(lcm, DDPM_TO_ZERO, DISTILLED, stochastic=True),
        "tcd": SamplerSpec(tcd, DDPM, DISTILLED, stochastic=True, with_eta=tcd),
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


def sampler_with_eta(name: str, eta: float | None) -> Sampler:
    """The sampler of this name with `eta`, its share of noise; None takes the default of diffusers' class.

    Raises:
        InputError: unknown name, an eta outside of 0 to 1, or a sampler that takes none.
    """
    spec = get_sampler(name)
    if eta is None:
        return spec.sample
    with_eta = spec.with_eta
    if with_eta is None:
        takers = ", ".join(known for known, other in SAMPLERS.items() if other.with_eta)
        raise InputError(f"sampler {name!r} takes no eta; these do: {takers}")
    if isinstance(eta, bool) or not isinstance(eta, int | float) or not 0 <= eta <= 1:
        raise InputError(f"eta is a number from 0 (no noise) to 1; got {eta!r}")
    chosen = float(eta)
    return lambda x, schedule, noise: with_eta(x, schedule, noise, chosen)
