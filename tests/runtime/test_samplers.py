"""Samplers against diffusers' own scheduler classes, and formulas where it has none, on the same model and noise."""

from __future__ import annotations

import math

import diffusers
import numpy as np
import pytest

from latentrt.benchmarks.sampler_parity import STEPS, both, relative, takes
from latentrt.benchmarks.sampler_reference import REFERENCES, SD15_CONFIG, TABLE, Reference
from latentrt.engines.errors import InputError
from latentrt.runtime.samplers import SAMPLERS, get_sampler, prepare, sampler_with_eta
from latentrt.runtime.schedule import Schedule

# diffusers 0.42 itself hands tensors to numpy in ways numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning",
    "ignore:__array_wrap__ must accept:DeprecationWarning",
    "ignore:Should have t:UserWarning",  # torchsde: one rounding past an end of the path
)

WITH_SPACING = [(name, spacing) for name, spec in SAMPLERS.items() for spacing in spec.spacings]
# draws in 5 steps: one a step, or none in the last, or two in each but the last
DRAWS = dict.fromkeys(SAMPLERS, 0)
DRAWS |= dict.fromkeys(["euler_ancestral", "ddpm", "dpmpp_2m_sde", "dpmpp_3m_sde"], 5)
DRAWS |= dict.fromkeys(["dpm2_ancestral", "dpmpp_2s_ancestral", "lcm", "tcd"], 4)
DRAWS |= {"dpmpp_sde": 8}
TWICE_A_STEP = ["heun", "dpm2", "dpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde"]  # but once to sigma 0


def tolerance(steps):
    """Relative; 1e-4 is promised.

    Measured: 4.9e-6 and less from 4 steps on. One or two steps fall from sigma 14.6, where float32 latents (up to 50)
    have a last bit of 4e-6, straight to latents of 0.2 to 0.3: 2 such bits make 3.8e-5.
    """
    return 1e-5 if steps >= 4 else 1e-4


@pytest.mark.parametrize(("name", "spacing"), WITH_SPACING)
def test_final_latent_is_the_references(name, spacing, start_noise):
    is_slow = name == "lms" and spacing != "linspace"  # diffusers integrates its weights numerically: 3 s for 50 steps
    for steps in STEPS[:4] if is_slow else STEPS:
        if takes(name, steps):
            ours, theirs = both(name, spacing, steps, start_noise)  # checks the noise streams' ends, too
            assert relative(ours, theirs) < tolerance(steps), steps


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("spacing", SAMPLERS["ddim"].spacings)
def test_ddim_with_eta_is_diffusers(spacing, eta, start_noise):
    for steps in (1, 4, 10):
        ours, theirs = both("ddim", spacing, steps, start_noise, eta)
        assert relative(ours, theirs) < tolerance(steps), steps


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_tcd_with_eta_is_diffusers(eta, start_noise):
    for steps in (1, 4, 10):
        ours, theirs = both("tcd", "distilled", steps, start_noise, eta)
        assert relative(ours, theirs) < tolerance(steps), steps


# name -> timesteps that diffusers' set_timesteps takes in its place of a number of steps
LISTED = {
    "euler": [999.0, 700.5, 400.0, 100.25, 3.0],
    "heun": [999.0, 700.5, 400.0, 100.25, 3.0],
    "dpmpp_2m": [980, 700, 400, 100, 3],
    "dpmpp_2m_sde": [980, 700, 400, 100, 3],
    "ddpm": [980, 700, 400, 100, 0],
    "lcm": [999, 759, 499, 259],
    "tcd": [999, 759, 499, 259],
}


@pytest.mark.parametrize("name", LISTED)
def test_listed_timesteps_are_diffusers(name, start_noise):
    ours, theirs = both(name, None, 0, start_noise, timesteps=LISTED[name])
    assert relative(ours, theirs) < 1e-5


def test_listed_sigmas_are_diffusers(start_noise):
    for end in (0.0, 0.02):
        ours, theirs = both("euler", None, 0, start_noise, sigmas=[20.0, 9.0, 2.5, 0.7, 0.1, end])
        assert relative(ours, theirs) < 1e-5


class TestKnownDifferences:
    """Where diffusers is not followed: its own result differs, and is ours once that one thing is mended."""

    @pytest.mark.parametrize("name", ["ddim", "pndm"])
    def test_ddim_and_pndm_step_to_the_next_timestep(self, name, start_noise, monkeypatch):
        assert relative(*both(name, "linspace", 10, start_noise)) < 1e-5
        as_it_is = Reference(REFERENCES[name].scheduler, takes_generator=REFERENCES[name].takes_generator)
        monkeypatch.setattr("latentrt.benchmarks.sampler_parity.REFERENCES", {name: as_it_is})
        assert relative(*both(name, "leading", 10, start_noise)) < 1e-5
        assert relative(*both(name, "linspace", 10, start_noise)) > 1e-3

    def test_the_third_order_sde_has_the_other_sign(self, start_noise, monkeypatch):
        changes = REFERENCES["dpmpp_3m_sde"].changes
        as_it_is = Reference(diffusers.DPMSolverMultistepScheduler, changes, takes_generator=True)
        monkeypatch.setattr("latentrt.benchmarks.sampler_parity.REFERENCES", {"dpmpp_3m_sde": as_it_is})
        assert relative(*both("dpmpp_3m_sde", "linspace", 2, start_noise)) < 1e-5  # no third order yet
        assert relative(*both("dpmpp_3m_sde", "linspace", 25, start_noise)) > 1e-3

    def test_runge_kutta_over_an_odd_gap_looks_where_it_goes(self, start_noise):
        """diffusers asks at `next + gap // 2` about the latent at `here - gap // 2`: other timesteps for an odd gap."""
        assert relative(*both("pndm_prk", "leading", 10, start_noise)) < 1e-5  # a gap of 100
        assert 1e-5 < relative(*both("pndm_prk", "leading", 8, start_noise)) < 1e-2  # a gap of 125


@pytest.mark.parametrize("steps", [1, 2, 4, 10])
@pytest.mark.parametrize("name", SAMPLERS)
def test_questions_follow_the_schedule(name, steps, eps_model, start_noise, torch_noise, drive):
    schedule = prepare(name, TABLE, steps)
    start = start_noise * schedule.init_scale
    _, queries = drive(get_sampler(name).sample(start, schedule, torch_noise(0)), eps_model)
    firsts = [next(query for query in queries if query.step == step) for step in range(steps)]
    expected = list(zip(range(steps), schedule.sigmas, schedule.timesteps, strict=False))
    assert [(query.step, query.sigma, query.timestep) for query in firsts] == expected
    assert [query.step for query in queries] == sorted(query.step for query in queries)
    asked = 2 * steps - 1 if name in TWICE_A_STEP else steps
    asked += {"pndm": min(steps - 1, 1), "pndm_prk": 3 * min(steps - 1, 3)}.get(name, 0)
    assert len(queries) == asked
    assert queries[0].x is start
    assert all(query.x.shape == start.shape and query.x.dtype == np.float32 for query in queries)
    assert all(float(np.float32(query.timestep)) == query.timestep for query in queries)
    assert all(type(value) is float for query in queries for value in (query.sigma, query.timestep))


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_was_handed_over_is_never_written_to(name, eps_model, start_noise, torch_noise):
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
def test_noise_is_drawn_by_stochastic_samplers_alone(name, eps_model, start_noise, torch_noise, drive):
    noise, schedule = torch_noise(0), prepare(name, TABLE, 5)
    drive(get_sampler(name).sample(start_noise * schedule.init_scale, schedule, noise), eps_model)
    assert noise.shapes == [start_noise.shape] * DRAWS[name]
    assert SAMPLERS[name].stochastic == (DRAWS[name] > 0)


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


# Multistep methods of higher order begin with Euler's step (PNDM: Heun's), and UniPC ends with one; that leaves h^2.
ORDERS = dict.fromkeys(["euler", "ddim"], 1)
ORDERS |= dict.fromkeys(["heun", "dpm2", "dpmpp_2m", "unipc", "deis", "lms", "plms", "pndm"], 2)


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence_on_a_gaussian(name):
    """For data from N(0, s^2) the ODE has the solution x(sigma) = x_0 sqrt((s^2 + sigma^2) / (s^2 + sigma_0^2))."""
    s2, first, last = 0.5**2, 1.0, 0.5
    start = np.ones((1, 4, 2, 2))  # float64: the error measured is the method's alone
    exact = math.sqrt((s2 + last**2) / (s2 + first**2))

    def error(steps):
        schedule = Schedule(tuple(np.geomspace(first, last, steps + 1).tolist()), (0.0,) * steps, 1.0, 1.0)
        sampling = SAMPLERS[name].sample(start, schedule, None)
        query = next(sampling)
        try:
            while True:
                query = sampling.send(query.x * (s2 / (s2 + query.sigma**2)))  # E[clean | x]
        except StopIteration as stop:
            return np.abs(stop.value - exact).max()

    ratios = [error(steps) / error(2 * steps) for steps in (100, 200)]
    np.testing.assert_allclose(ratios, 2 ** ORDERS[name], rtol=0.03)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in {"lcm", "tcd"}])
def test_the_most_steps_there_can_be(name, start_noise, eps_model, torch_noise, drive):
    """The DPM family gets one timestep twice here; diffusers divides by zero and returns no picture."""
    for steps in (999, 1000) if SAMPLERS[name].spacing == "linspace" else (999,):
        schedule = prepare(name, TABLE, steps)
        sampling = get_sampler(name).sample(start_noise[:, :, :1, :1] * schedule.init_scale, schedule, torch_noise(0))
        result, _ = drive(sampling, lambda x, t: eps_model(np.broadcast_to(x, start_noise.shape), t)[:, :, :1, :1])
        assert np.isfinite(result).all()
        assert np.abs(result).max() < 3.0


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
    for call in (lambda: get_sampler(name), lambda: prepare(name, TABLE, 10), lambda: sampler_with_eta(name, 0.5)):
        with pytest.raises(InputError, match=f"unknown sampler '{name}'.*{hint}"):
            call()


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.0, "20", None, True, float("nan")])
def test_steps_out_of_range(steps):
    with pytest.raises(InputError, match=f"steps must be a whole number from 1 to 1000, not {steps!r}"):
        prepare("euler", TABLE, steps)


@pytest.mark.parametrize(
    ("name", "path", "words"),
    [
        ("ddim", {"spacing": "karras"}, "'ddim' takes no karras spacing, only leading, .* these take it: euler, heun"),
        ("lcm", {"spacing": "trailing"}, "'lcm' takes no trailing spacing, only distilled"),
        ("euler", {"spacing": "distilled"}, "these take it: lcm, tcd"),
        ("euler", {"spacing": "karas"}, "unknown spacing 'karas': did you mean 'karras'"),
        ("pndm", {"sigmas": [14.0, 0.0]}, "'pndm' takes no list of sigmas, .* these take sigmas: euler, "),
        ("ddim", {"timesteps": [998.5, 1]}, "'ddim' takes whole timesteps only; these take fractions: euler, "),
        ("euler", {"spacing": "karras", "timesteps": [999]}, "spacing and timesteps each say where the steps go"),
        ("euler", {"timesteps": []}, "timesteps is a list of at least 1 .* from 999 down to 0"),
        ("euler", {"timesteps": [1000, 5]}, "from 999 down to 0.* got"),
        ("euler", {"timesteps": [5, 5]}, "each below the one before"),
        ("euler", {"timesteps": [float("nan")]}, "finite"),
        ("euler", {"timesteps": "many"}, "timesteps is a list"),
        ("euler", {"sigmas": [1.0]}, "sigmas is a list of at least 2"),
        ("euler", {"sigmas": [1.0, -0.1]}, "sigmas"),
        ("euler", {"sigmas": [float("inf"), 0]}, "finite"),
    ],
)
def test_a_path_that_a_sampler_cannot_take(name, path, words):
    with pytest.raises(InputError, match=words):
        prepare(name, TABLE, 10, **path)


@pytest.mark.parametrize("steps", [51, 100])
def test_more_steps_than_were_distilled(steps):
    with pytest.raises(InputError, match=f"steps {steps}: .* use at most 50 steps, or name the timesteps"):
        prepare("tcd", TABLE, steps)


@pytest.mark.parametrize(
    ("name", "eta", "words"),
    [
        ("euler", 0.0, "'euler' takes no eta; these do: ddim, tcd"),
        ("ddim", 1.5, "eta is a number from 0"),
        ("ddim", "1", "eta is"),
    ],
)
def test_eta_that_a_sampler_cannot_take(name, eta, words):
    with pytest.raises(InputError, match=words):
        sampler_with_eta(name, eta)


def test_every_sampler_is_compared():
    assert set(REFERENCES) | {"dpmpp_2s_ancestral", "plms"} == set(SAMPLERS)
    assert SD15_CONFIG["steps_offset"] == TABLE.steps_offset
