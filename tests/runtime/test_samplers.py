"""Samplers against diffusers' own scheduler classes around the same closed-form model and the same noise."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest

from latentrt.engines.errors import InputError
from latentrt.runtime.samplers import SAMPLERS, get_sampler, prepare
from latentrt.runtime.samplers.dpmpp import dpmpp_2m
from latentrt.runtime.samplers.euler import euler
from latentrt.runtime.schedule import NoiseTable, Schedule

# diffusers 0.42 itself hands tensors to np.array in a way numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TABLE = NoiseTable()
STEPS = [1, 2, 3, 4, 10, 20, 25, 50]
CLASSES = {
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "ddim": diffusers.DDIMScheduler,
    "pndm": diffusers.PNDMScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
}
WITH_KARRAS = [(name, karras) for name in SAMPLERS for karras in (False, True) if not karras or SAMPLERS[name].karras]


def tolerance(steps):
    """Of the largest latent; 1e-4 is promised.

    Measured: 1.6e-6 and less from 3 steps on. One or two steps fall from sigma 14.6, where float32 latents (up to 50)
    have a last bit of 4e-6, straight to latents of 0.2 to 0.3: 2 such bits make 3.8e-5.
    """
    return 1e-5 if steps >= 3 else 8e-5


def options(name, noise):
    return {"generator": noise.generator} if name == "euler_ancestral" else {}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("name", "karras"), WITH_KARRAS)
def test_final_latent_is_diffusers(
    *, name, karras, steps, sd15_scheduler_config, eps_model, start_noise, torch_noise, drive, drive_diffusers
):
    changes = {"use_karras_sigmas": True} if karras else {}
    scheduler = CLASSES[name].from_config(sd15_scheduler_config, **changes)
    theirs_noise, our_noise = torch_noise(3), torch_noise(3)
    theirs = drive_diffusers(scheduler, steps, start_noise, eps_model, **options(name, theirs_noise))

    schedule = prepare(name, TABLE, steps, karras=karras)
    sampling = get_sampler(name).sample(start_noise * schedule.init_scale, schedule, our_noise)
    result, _ = drive(sampling, eps_model)
    ours = result * schedule.final_scale

    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < tolerance(steps)
    # and both generators stand at the same place
    np.testing.assert_array_equal(our_noise.normal((16,)), theirs_noise.normal((16,)))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("name", "karras"), WITH_KARRAS)
def test_questions_follow_the_schedule(*, name, karras, steps, eps_model, start_noise, torch_noise, drive):
    schedule = prepare(name, TABLE, steps, karras=karras)
    start = start_noise * schedule.init_scale
    _, queries = drive(get_sampler(name).sample(start, schedule, torch_noise(0)), eps_model)
    expected = list(zip(range(steps), schedule.sigmas, schedule.timesteps, strict=False))
    if name == "pndm" and steps > 1:  # the first step asks twice, the second time from where it will end
        expected.insert(1, (0, schedule.sigmas[1], schedule.timesteps[1]))
    assert [(query.step, query.sigma, query.timestep) for query in queries] == expected
    assert queries[0].x is start
    assert all(query.x.shape == start.shape and query.x.dtype == np.float32 for query in queries)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_was_handed_over_is_never_written_to(name, eps_model, start_noise, torch_noise, drive):
    schedule = prepare(name, TABLE, 6)

    def run(freeze):
        sampling = get_sampler(name).sample((start_noise * schedule.init_scale), schedule, torch_noise(0))
        query, seen = next(sampling), []
        try:
            while True:
                denoised = query.x - eps_model(query.x / np.hypot(1, query.sigma).item(), query.timestep) * query.sigma
                query.x.flags.writeable = denoised.flags.writeable = not freeze
                seen.append((query.x, query.x.copy(), denoised, denoised.copy()))
                query = sampling.send(denoised)
        except StopIteration as stop:
            return stop.value, seen

    frozen, seen = run(freeze=True)  # an in-place operation would raise
    free, _ = run(freeze=False)
    np.testing.assert_array_equal(frozen, free)
    for x, x_then, denoised, denoised_then in seen:
        np.testing.assert_array_equal(x, x_then)
        np.testing.assert_array_equal(denoised, denoised_then)


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_is_drawn_by_the_ancestral_sampler_alone_once_a_step(name, eps_model, start_noise, torch_noise, drive):
    noise, schedule = torch_noise(0), prepare(name, TABLE, 5)
    drive(get_sampler(name).sample(start_noise * schedule.init_scale, schedule, noise), eps_model)
    assert noise.shapes == ([start_noise.shape] * 5 if name == "euler_ancestral" else [])


def test_requests_that_take_turns_draw_what_they_draw_alone(eps_model, start_noise, torch_noise, drive):
    schedule = prepare("euler_ancestral", TABLE, 4)

    def start(seed):
        return get_sampler("euler_ancestral").sample(start_noise * schedule.init_scale, schedule, torch_noise(seed))

    alone = [drive(start(seed), eps_model)[0] for seed in (1, 2)]
    together, live = {}, dict(enumerate((start(1), start(2))))
    asked = {key: next(sampling) for key, sampling in live.items()}
    while asked:
        for key, query in list(asked.items()):
            eps = eps_model(query.x / np.hypot(1, query.sigma).item(), query.timestep)
            try:
                asked[key] = live[key].send(query.x - eps * query.sigma)
            except StopIteration as stop:
                together[key] = stop.value
                del asked[key]
    np.testing.assert_array_equal(alone[0], together[0])
    np.testing.assert_array_equal(alone[1], together[1])
    assert np.abs(alone[0] - alone[1]).max() > 0.1


@pytest.mark.parametrize(("sample", "order"), [(euler, 1), (dpmpp_2m, 2)])
def test_order_of_convergence_on_a_gaussian(sample, order):
    """For data from N(0, s^2) the ODE has the solution x(sigma) = x_0 sqrt((s^2 + sigma^2) / (s^2 + sigma_0^2))."""
    s2, first, last = 0.5**2, 10.0, 0.05
    start = np.ones((1, 4, 2, 2))  # float64: the error measured is the method's alone
    exact = np.sqrt((s2 + last**2) / (s2 + first**2))

    def error(steps):
        schedule = Schedule(tuple(np.geomspace(first, last, steps + 1).tolist()), (0.0,) * steps, 1.0, 1.0)
        sampling = sample(start, schedule, None)
        query = next(sampling)
        try:
            while True:
                query = sampling.send(query.x * (s2 / (s2 + query.sigma**2)))  # E[clean | x]
        except StopIteration as stop:
            return np.abs(stop.value - exact).max()

    orders = [np.log2(error(steps) / error(2 * steps)) for steps in (100, 200, 400)]
    np.testing.assert_allclose(orders, order, atol=0.1)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_the_most_steps_there_can_be(name, start_noise, eps_model, torch_noise, drive):
    """DPM++ gets one timestep twice here; diffusers divides by zero and returns no picture."""
    results = []
    for steps in (999, 1000):
        schedule = prepare(name, TABLE, steps)
        results.append(drive(get_sampler(name).sample(start_noise * schedule.init_scale, schedule, None), eps_model)[0])
    np.testing.assert_allclose(results[0], results[1], atol=0.05)  # one step more of a thousand


def test_a_sampler_can_be_cancelled(start_noise, torch_noise):
    sampling = get_sampler("dpmpp_2m").sample(start_noise, prepare("dpmpp_2m", TABLE, 5), torch_noise(0))
    query = next(sampling)
    sampling.send(query.x)
    sampling.close()
    with pytest.raises(StopIteration):
        next(sampling)


@pytest.mark.parametrize(
    ("name", "hint"), [("eular", "did you mean 'euler'"), ("DDIM", "known: euler, "), ("", "known: euler, ")]
)
def test_unknown_sampler(name, hint):
    for call in (lambda: get_sampler(name), lambda: prepare(name, TABLE, 10)):
        with pytest.raises(InputError, match=f"unknown sampler '{name}'.*{hint}"):
            call()


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.0, "20", None, True, float("nan")])
def test_steps_out_of_range(steps):
    with pytest.raises(InputError, match=f"steps must be a whole number from 1 to 1000, not {steps!r}"):
        prepare("euler", TABLE, steps)


@pytest.mark.parametrize("name", ["euler_ancestral", "ddim", "pndm"])
def test_karras_of_a_sampler_that_takes_none(name):
    with pytest.raises(InputError, match=f"'{name}' takes no Karras schedule; these do: euler, dpmpp_2m"):
        prepare(name, TABLE, 10, karras=True)
