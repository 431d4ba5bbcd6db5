"""Other people's samplers to compare ours with: diffusers' scheduler classes, and formulas where it has no class.

All run around one closed-form model: pixels from N(+m, s^2) or N(-m, s^2), whose exact answer is known. It takes sigma
from the timestep, so that a wrong timestep, a wrong scale and a wrong sigma each give another picture.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import pairwise
from types import MappingProxyType
from typing import Any, TypeAlias

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from latentrt.runtime.noise import NoiseSource
from latentrt.runtime.query import Query, Sampling
from latentrt.runtime.schedule import NoiseTable, Schedule

Array: TypeAlias = NDArray[Any]
EpsModel: TypeAlias = Callable[[Array, float], Array]  # (x of unit variance, timestep) -> eps

SHAPE = (2, 4, 8, 8)
TABLE = NoiseTable()

# scheduler_config.json of SD 1.5, a PNDMScheduler's
SD15_CONFIG: Mapping[str, Any] = MappingProxyType(
    {
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
)


@cache
def closed_form_model() -> EpsModel:
    """The exact eps, in float32."""
    table, s2 = TABLE.sigmas, 0.5**2
    m = np.random.default_rng(7).uniform(0.3, 1.0, SHAPE[1:]).astype(np.float32)

    def eps(x_in: Array, timestep: float) -> Array:
        sigma = float(np.interp(timestep, np.arange(len(table)), table))
        x = x_in * math.hypot(1.0, sigma)
        mean = (s2 * x + sigma**2 * m * np.tanh(m * x / (s2 + sigma**2))) / (s2 + sigma**2)  # E[clean | x]
        return np.asarray((x - mean) / sigma)

    return eps


class TorchNoise:
    """torch's own stream as a noise source; `shapes` records what was drawn."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.shapes: list[tuple[int, ...]] = []

    def normal(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """The next normals of the stream."""
        self.shapes.append(tuple(shape))
        return np.asarray(torch.randn(tuple(shape), generator=self.generator).numpy())


class GivenNoise:
    """Draws that were made elsewhere, one after the other."""

    def __init__(self, draws: Iterator[Array]) -> None:
        self._draws = draws

    def normal(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """The next draw."""
        draw = next(self._draws)
        assert draw.shape == tuple(shape)
        return draw


def drive(sampling: Sampling, model: EpsModel) -> tuple[Array, list[Query]]:
    """Answer a sampler's questions with an eps model until it returns; its result and the questions."""
    queries: list[Query] = []
    try:
        query = next(sampling)
        while True:
            queries.append(query)
            eps = model(query.x / math.hypot(1.0, query.sigma), query.timestep)
            query = sampling.send(np.asarray(query.x - eps * query.sigma, np.float32))
    except StopIteration as stop:
        return stop.value, queries


@dataclass(frozen=True, eq=False)
class Reference:
    """A scheduler class of diffusers, and how it is made to be one of our samplers."""

    scheduler: Any
    changes: Mapping[str, Any] = field(default_factory=dict)  # to SD 1.5's config
    takes_generator: bool = False
    mends_gaps: bool = False  # see `_mend_gap`

    @property
    def scheduler_name(self) -> str:
        """The class of diffusers."""
        is_own = self.scheduler.__module__.startswith("diffusers.")
        return str(self.scheduler.__name__ if is_own else f"{self.scheduler.__base__.__name__}, one sign mended")

    @cache  # noqa: B019 - the references are module constants; some constructors take a second
    def build(self, spacing: str | None = None) -> Any:
        """The one scheduler of SD 1.5's config with this spacing; None keeps the class's own."""
        spaced: dict[str, Any] = {"timestep_spacing": spacing}
        if spacing in {"karras", "exponential"}:
            spaced = {f"use_{spacing}_sigmas": True}
        elif spacing in {None, "distilled"}:
            spaced = {}
        config = {key: value for key, value in SD15_CONFIG.items() if key in _parameters(self.scheduler)}
        return self.scheduler.from_config(config | dict(self.changes) | spaced)


class CorrectedThirdOrder(diffusers.DPMSolverMultistepScheduler):  # type: ignore[misc]
    """diffusers' class with the one sign that k-diffusion's 3M SDE has otherwise: + 1/2 in the weight of D2."""

    def multistep_dpm_solver_third_order_update(self, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Add what the sign changes, (1/2 + 1/2) alpha_t D2, to the class's own step."""
        own = super().multistep_dpm_solver_third_order_update(outputs, *args, **kwargs)
        lambdas = [-torch.log(self.sigmas[self.step_index + offset]) for offset in (1, 0, -1, -2)]
        h, h_0, h_1 = (a - b for a, b in pairwise(lambdas))
        r0, r1 = h_0 / h, h_1 / h
        m0, m1, m2 = outputs[-1], outputs[-2], outputs[-3]
        second_difference = ((m0 - m1) / r0 - (m1 - m2) / r1) / (r0 + r1)
        alpha_t, _ = self._sigma_to_alpha_sigma_t(self.sigmas[self.step_index + 1])
        return own + alpha_t * second_difference


_SDE = {"algorithm_type": "sde-dpmsolver++"}
REFERENCES: Mapping[str, Reference] = MappingProxyType(
    {
        "euler": Reference(diffusers.EulerDiscreteScheduler),
        "euler_ancestral": Reference(diffusers.EulerAncestralDiscreteScheduler, takes_generator=True),
        "heun": Reference(diffusers.HeunDiscreteScheduler),
        "lms": Reference(diffusers.LMSDiscreteScheduler),
        "dpm2": Reference(diffusers.KDPM2DiscreteScheduler),
        "dpm2_ancestral": Reference(diffusers.KDPM2AncestralDiscreteScheduler, takes_generator=True),
        "ddim": Reference(diffusers.DDIMScheduler, mends_gaps=True, takes_generator=True),
        "ddpm": Reference(diffusers.DDPMScheduler, takes_generator=True),
        "pndm": Reference(diffusers.PNDMScheduler, mends_gaps=True),
        "pndm_prk": Reference(diffusers.PNDMScheduler, {"skip_prk_steps": False}),
        "dpmpp_2m": Reference(diffusers.DPMSolverMultistepScheduler),
        "dpmpp_2m_sde": Reference(diffusers.DPMSolverMultistepScheduler, _SDE, takes_generator=True),
        "dpmpp_3m_sde": Reference(
            CorrectedThirdOrder,
            _SDE | {"solver_order": 3, "solver_type": "heun", "lower_order_final": False},
            takes_generator=True,
        ),
        "dpmpp_sde": Reference(diffusers.DPMSolverSDEScheduler, {"noise_sampler_seed": 0}),
        "unipc": Reference(diffusers.UniPCMultistepScheduler),
        "deis": Reference(diffusers.DEISMultistepScheduler),
        "lcm": Reference(diffusers.LCMScheduler, takes_generator=True),
        "tcd": Reference(diffusers.TCDScheduler, takes_generator=True),
    }
)


def _parameters(scheduler: Any) -> set[str]:
    return set(inspect.signature(scheduler.__init__).parameters)  # LCM and TCD warn of a word that is PNDM's


def drive_diffusers(
    scheduler: Any, steps: int | None, noise: Array, model: EpsModel, mend_gaps: bool = False, **step_options: Any
) -> Array:
    """The denoising loop of diffusers' StableDiffusionPipeline around an eps model.

    `steps` None takes the timesteps that the scheduler has already.
    """
    if steps is not None:
        scheduler.set_timesteps(steps)
    x = torch.from_numpy(noise) * scheduler.init_noise_sigma
    timesteps = scheduler.timesteps
    for index, t in enumerate(timesteps):
        if mend_gaps:
            _mend_gap(scheduler, timesteps, index)
        x_in = scheduler.scale_model_input(x, t)
        eps = torch.from_numpy(model(x_in.numpy(), float(t)))
        x = scheduler.step(eps, t, x, **step_options).prev_sample
    return np.asarray(x.numpy())


def _mend_gap(scheduler: Any, timesteps: Any, index: int) -> None:
    """Make DDIMScheduler and PNDMScheduler step to the timestep that comes next.

    They step by num_train_timesteps // num_inference_steps, which is where the next one lies with leading spacing only.
    A fraction in place of the number of steps makes that division give the gap; 1 leads past the end, as it should.
    """
    later = [int(t) for t in timesteps[index:]]
    following = next((t for t in later if t < later[0]), None)
    if isinstance(scheduler, diffusers.PNDMScheduler) and scheduler.counter == 1:  # the second look of the first step
        following = 2 * later[0] - int(timesteps[0])
    gap = 1000 if following is None else later[0] - following
    scheduler.num_inference_steps = Fraction(2000, 2 * gap + 1)


def brownian_draws(scheduler: Any) -> Iterator[Array]:
    """The path of torchsde that DPMSolverSDEScheduler has followed, as the unit increments that dpmpp_sde draws.

    A path is rough: a time that is off by one rounding has another value. So times are computed as diffusers does.
    """
    times = -torch.log(scheduler.sigmas[[0, *range(1, len(scheduler.sigmas) - 1, 2)]])
    for t, t_next in pairwise(times):
        sigma, middle, sigma_next = (torch.exp(-at) for at in (t, t + (t_next - t) * 0.5, t_next))
        yield scheduler.noise_sampler(sigma, middle).numpy()
        yield scheduler.noise_sampler(middle, sigma_next).numpy()


def k_dpmpp_2s_ancestral(schedule: Schedule, noise: Array, model: EpsModel, source: NoiseSource) -> Array:
    """k-diffusion's sample_dpmpp_2s_ancestral in float64, in its own terms: t = -log sigma."""
    x = noise.astype(np.float64) * schedule.init_scale
    for sigma, sigma_next, timestep in zip(schedule.sigmas, schedule.sigmas[1:], schedule.timesteps, strict=False):
        denoised = x - sigma * model(x / math.hypot(1.0, sigma), timestep)
        sigma_up = min(sigma_next, (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5)
        sigma_down = (sigma_next**2 - sigma_up**2) ** 0.5
        if sigma_down == 0:
            x = x + (x - denoised) / sigma * (sigma_down - sigma)
            continue
        t, t_next = -math.log(sigma), -math.log(sigma_down)
        h = t_next - t
        sigma_s = math.exp(-(t + 0.5 * h))
        x_2 = sigma_s / sigma * x - math.expm1(-h * 0.5) * denoised
        timestep_s = float(TABLE.timestep_at(np.array(sigma_s)))
        denoised_2 = x_2 - sigma_s * model(x_2 / math.hypot(1.0, sigma_s), timestep_s)
        x = math.exp(-t_next) / math.exp(-t) * x - math.expm1(-h) * denoised_2
        x = x + source.normal(noise.shape) * sigma_up
    return x


def paper_plms(schedule: Schedule, noise: Array, model: EpsModel) -> Array:
    """PNDM's equations 9 and 11 in float64, in variance-preserving space, with lower orders where history is short."""
    alpha_bars = [1.0 / (1.0 + sigma**2) for sigma in schedule.sigmas]
    x, history = noise.astype(np.float64), list[Array]()
    weights = {1: [1.0], 2: [1.5, -0.5], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
    for (alpha, alpha_next), timestep in zip(pairwise(alpha_bars), schedule.timesteps, strict=True):
        history = [model(x, timestep), *history][:4]
        eps = sum(weight * past for weight, past in zip(weights[len(history)], history, strict=True))
        denominator = math.sqrt(alpha) * (math.sqrt((1 - alpha_next) * alpha) + math.sqrt((1 - alpha) * alpha_next))
        x = math.sqrt(alpha_next / alpha) * x - (alpha_next - alpha) / denominator * eps
    return x
