"""Schedules against the arrays that diffusers' own scheduler classes make from SD 1.5's config."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest

from latentrt.benchmarks.sampler_reference import REFERENCES
from latentrt.engines.errors import InputError
from latentrt.runtime.families import ddpm_schedule, dpm_solver_schedule, k_diffusion_schedule
from latentrt.runtime.samplers import SAMPLERS, prepare
from latentrt.runtime.schedule import NoiseTable, Schedule
from latentrt.runtime.spacing import exponential_ramp, karras_ramp, spaced_timesteps

# diffusers 0.42 itself hands tensors to numpy in ways numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning", "ignore:__array_wrap__ must accept:DeprecationWarning"
)

TABLE = NoiseTable()
STEPS = [1, 2, 3, 4, 7, 10, 20, 25, 30, 50, 61, 100, 333, 999]
# diffusers computes in float32 all through: a few roundings of 6e-8 each (measured: 2.7e-7).
SIGMA_RTOL = 1e-6
CLASSES = {
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "ddim": diffusers.DDIMScheduler,
    "pndm": diffusers.PNDMScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
}


def reference(name, config, steps, **options):
    scheduler = CLASSES[name].from_config(config, **options)
    scheduler.set_timesteps(steps)
    return scheduler


def test_the_table_is_diffusers_table(sd15_scheduler_config):
    alpha_bar = diffusers.DDIMScheduler.from_config(sd15_scheduler_config).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(TABLE.sigmas, np.sqrt((1 - alpha_bar) / alpha_bar), rtol=SIGMA_RTOL)


@pytest.mark.parametrize("name", [name for name in REFERENCES if SAMPLERS[name].spacing != "distilled"])
def test_default_spacing_is_the_class_own(name, sd15_scheduler_config):
    """Also when the class is built from the config of the pipeline's own scheduler, which says "leading"."""
    pipeline_config = diffusers.PNDMScheduler.from_config(sd15_scheduler_config).config
    scheduler = REFERENCES[name].scheduler
    for config in (sd15_scheduler_config, pipeline_config):
        assert scheduler.from_config(config).config.timestep_spacing == SAMPLERS[name].spacing


@pytest.mark.parametrize("name", REFERENCES)
def test_ramps_are_taken_where_diffusers_takes_them(name):
    config = REFERENCES[name].build().config
    for ramp in ("karras", "exponential"):
        assert (ramp in SAMPLERS[name].spacings) == (f"use_{ramp}_sigmas" in config)


@pytest.mark.parametrize("steps", [*STEPS, 1000])
@pytest.mark.parametrize("name", ["euler", "euler_ancestral", "dpmpp_2m"])
def test_sigmas_timesteps_and_start_scale(name, steps, sd15_scheduler_config):
    schedule, theirs = prepare(name, TABLE, steps), reference(name, sd15_scheduler_config, steps)
    assert list(schedule.timesteps) == theirs.timesteps.tolist()
    np.testing.assert_allclose(schedule.sigmas, theirs.sigmas, rtol=SIGMA_RTOL)
    # DPM-Solver starts from unit noise in variance-preserving space; the factor takes it to ours.
    to_ve = np.hypot(1, schedule.sigmas[0]) if name == "dpmpp_2m" else 1.0
    assert schedule.init_scale == pytest.approx(float(theirs.init_noise_sigma) * to_ve, rel=SIGMA_RTOL)
    assert schedule.final_scale == 1.0


@pytest.mark.parametrize("steps", [*STEPS, 1000])
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_karras(name, steps, sd15_scheduler_config):
    schedule = prepare(name, TABLE, steps, "karras")
    theirs = reference(name, sd15_scheduler_config, steps, use_karras_sigmas=True)
    np.testing.assert_allclose(schedule.sigmas, theirs.sigmas, rtol=SIGMA_RTOL)
    if name == "dpmpp_2m":  # rounded: the same integers
        assert list(schedule.timesteps) == theirs.timesteps.tolist()
    else:  # log sigma, in float32 good to 3e-7 (1.2e-7 its last bit), climbs by 0.0033 a timestep at the least
        np.testing.assert_allclose(schedule.timesteps, theirs.timesteps, rtol=0, atol=3e-4)


@pytest.mark.parametrize("steps", [*STEPS, 501, 998])
@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_ddpm_family(name, steps, sd15_scheduler_config):
    schedule, theirs = prepare(name, TABLE, steps), reference(name, sd15_scheduler_config, steps)
    timesteps = theirs.timesteps.tolist()
    if name == "pndm" and steps > 1:  # it asks twice at the second
        timesteps.pop(1)
    assert list(schedule.timesteps) == timesteps
    alpha_bar = np.append(theirs.alphas_cumprod.double()[timesteps], theirs.final_alpha_cumprod.double())
    np.testing.assert_allclose(schedule.sigmas, np.sqrt((1 - alpha_bar) / alpha_bar), rtol=SIGMA_RTOL)
    assert schedule.init_scale == pytest.approx(1 / np.sqrt(alpha_bar[0]), rel=1e-5)
    assert schedule.final_scale == pytest.approx(np.sqrt(alpha_bar[-1]), rel=1e-6)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    ("name", "build"),
    [("euler", k_diffusion_schedule), ("ddim", ddpm_schedule), ("dpmpp_2m", dpm_solver_schedule)],
)
def test_every_spacing_of_every_family(name, build, steps, spacing, sd15_scheduler_config):
    if (name, steps, spacing) == ("dpmpp_2m", 999, "leading"):
        return  # refused: below
    theirs = reference(name, sd15_scheduler_config, steps, timestep_spacing=spacing)
    schedule = build(TABLE, steps, spacing)
    # With trailing spacing diffusers may add a timestep of -1 (61 steps): ours has as many as were asked for.
    assert list(schedule.timesteps) == theirs.timesteps.tolist()[:steps]
    if name == "euler":
        assert schedule.init_scale == pytest.approx(float(theirs.init_noise_sigma), rel=SIGMA_RTOL)


def test_leading_spacing_past_the_table_is_refused():
    with pytest.raises(InputError, match=r"steps 1000: .* timestep 1000, .* 999: use at most 999 steps"):
        prepare("ddim", TABLE, 1000)
    with pytest.raises(InputError, match=r"steps 1000: .* use at most 999 steps"):
        prepare("euler", TABLE, 1000, "leading")
    with pytest.raises(InputError, match=r"steps 999: .* use at most 998 steps"):  # which lays out one point more
        prepare("unipc", TABLE, 999, "leading")


EXPONENTIAL = {"euler": 3e-4, "dpm2": 3e-4, "dpmpp_2m": 0, "unipc": 0, "deis": 0}  # whole timesteps in the last three


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", EXPONENTIAL)
def test_exponential(name, steps):
    """diffusers cuts the timesteps of the DPM family, so that the first of each path is 998."""
    schedule, theirs = prepare(name, TABLE, steps, "exponential"), REFERENCES[name].build("exponential")
    theirs.set_timesteps(steps)
    sigmas, timesteps = theirs.sigmas.tolist(), theirs.timesteps.tolist()
    if name == "dpm2":  # asks again between two of them
        sigmas, timesteps = [sigmas[0], *sigmas[1:-1:2]], timesteps[::2]
    np.testing.assert_allclose(schedule.sigmas, sigmas, rtol=SIGMA_RTOL)
    np.testing.assert_allclose(schedule.timesteps, timesteps, rtol=0, atol=EXPONENTIAL[name])


def test_one_cut_that_falls_on_the_other_side():
    """A timestep within float32's error of a whole number: in 4 of 999 step counts, one of so many steps."""
    schedule, theirs = prepare("dpmpp_2m", TABLE, 569, "exponential"), REFERENCES["dpmpp_2m"].build("exponential")
    theirs.set_timesteps(569)
    apart = np.array(theirs.timesteps.tolist()) - np.array(schedule.timesteps)
    assert apart[np.nonzero(apart)].tolist() == [1.0]


@pytest.mark.parametrize("steps", STEPS)
def test_karras_timesteps_of_dpm2_are_whole(steps):
    schedule, theirs = prepare("dpm2", TABLE, steps, "karras"), REFERENCES["dpm2"].build("karras")
    theirs.set_timesteps(steps)
    assert list(schedule.timesteps) == theirs.timesteps.tolist()[::2]


@pytest.mark.parametrize("name", ["lcm", "tcd"])
def test_distilled(name):
    for steps in range(1, 51):
        theirs = REFERENCES[name].build()
        theirs.set_timesteps(steps)
        assert list(prepare(name, TABLE, steps).timesteps) == theirs.timesteps.tolist()


@pytest.mark.parametrize(("name", "spacing"), [(name, s) for name, spec in SAMPLERS.items() for s in spec.spacings])
def test_every_schedule_is_sound(name, spacing):
    """One sigma more than timesteps, descending, whole path inside the table."""
    for steps in [*range(1, 51), *([] if spacing == "distilled" else [61, 100, 250, 333, 500, 998])]:
        schedule = prepare(name, TABLE, steps, spacing)
        assert schedule.steps == steps == len(schedule.sigmas) - 1
        assert np.all(np.diff(schedule.sigmas[:-1]) < 0)
        assert schedule.sigmas[-1] <= schedule.sigmas[-2]  # DDIM's linspace ends where it asked last
        assert 0 <= schedule.timesteps[-1] <= schedule.timesteps[0] <= 999
        assert [float(np.float32(t)) for t in schedule.timesteps] == list(schedule.timesteps)
        assert {type(value) for value in (*schedule.sigmas, *schedule.timesteps)} == {float}


@pytest.mark.parametrize("name", SAMPLERS)
def test_listing_the_timesteps_of_a_spacing_is_that_spacing(name):
    for spacing in SAMPLERS[name].spacings:
        named = prepare(name, TABLE, 10, spacing)
        listed = prepare(name, TABLE, 999, timesteps=named.timesteps)
        if spacing in {"karras", "exponential"}:  # what the model is told there says less than the sigma
            continue
        assert (listed.sigmas, listed.timesteps, listed.final_scale) == (
            named.sigmas, named.timesteps, named.final_scale
        )  # fmt: skip


@pytest.mark.parametrize("name", [name for name, spec in SAMPLERS.items() if spec.family.from_sigmas])
def test_listing_the_sigmas_of_a_spacing_is_that_spacing(name):
    named = prepare(name, TABLE, 10)
    listed = prepare(name, TABLE, 999, sigmas=named.sigmas)
    assert listed.sigmas == named.sigmas
    assert (listed.init_scale, listed.final_scale) == (named.init_scale, named.final_scale)
    # a sigma at a fractional timestep was read off a line in sigma, and is found again on one in log sigma
    np.testing.assert_allclose(listed.timesteps, named.timesteps, rtol=0, atol=0.2)


def test_a_level_between_two_steps_has_its_timestep():
    schedule = Schedule((10.0, 1.0, 0.0), (950.0, 500.0), 1.0, 1.0)
    sigma = float(TABLE.sigmas[600])
    assert schedule.timestep_at(sigma) == 600.0


def test_timestep_at_inverts_sigma_at_on_the_table():
    timesteps = np.arange(1000.0)
    np.testing.assert_allclose(TABLE.timestep_at(TABLE.sigma_at(timesteps)), timesteps, atol=1e-9)


def test_ramps_keep_both_ends():
    sigmas = exponential_ramp(14.6, 0.03, 10)
    np.testing.assert_allclose(sigmas[[0, -1]], [14.6, 0.03])
    np.testing.assert_allclose(np.diff(np.log(sigmas), n=2), 0, atol=1e-12)
    sigmas = karras_ramp(14.6, 0.03, 10)
    np.testing.assert_allclose(sigmas[[0, -1]], [14.6, 0.03])
    np.testing.assert_allclose(np.diff(sigmas ** (1 / 7), n=2), 0, atol=1e-12)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_spaced_timesteps_count(spacing):
    assert all(len(spaced_timesteps(spacing, count, TABLE)) == count for count in range(1, 1001))
