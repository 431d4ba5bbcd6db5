"""The noise of a seed against PyTorch's own, drawn by the PyTorch that is installed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentrt.engines.errors import InputError
from latentrt.runtime.noise import MAX_SEED, MIN_SEED, NoiseSource, TorchCpuNoise, torch_seed

# With AVX2 and AVX-512, the largest difference over 16 million normals was 7.2e-7. On other CPUs PyTorch rounds the
# angle of Box-Muller from float64: over 42 million normals, 2.51e-6 between PyTorch without and PyTorch with AVX2.
TOLERANCE = 2e-6 if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else 3e-6

SEEDS = [0, 1, 42, 2**31 - 1, 2**32 - 1, 2**32, 2**63, MAX_SEED, -1, -2, MIN_SEED]
LATENT = (2, 4, 64, 64)

any_seed = st.integers(MIN_SEED, MAX_SEED)


def torch_stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_normals(found: np.ndarray, wanted: torch.Tensor) -> None:
    assert found.dtype == np.float32
    assert found.shape == tuple(wanted.shape)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [0, 1, 5, 16, 623, 624, 625, 5000])  # mt19937 refills its 624 words at a time
def test_uniforms_are_torchs_bit_for_bit(seed, count):
    wanted = torch.rand(count, generator=torch_stream(seed)).numpy()
    found = TorchCpuNoise(seed).uniform(count)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize("seed", [0, 7, -3])
@pytest.mark.parametrize("size", [*range(41), 48, 63, 64, 65, 100, 127, 128, 129, 1000, 1023, 1025])
def test_normals_of_every_small_size(size, seed):
    assert_normals(TorchCpuNoise(seed).normal((size,)), torch.randn(size, generator=torch_stream(seed)))


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 0, 4), LATENT, (1, 4, 16, 16), (4, 63, 65), (99_991,)])
@pytest.mark.parametrize("seed", SEEDS)
def test_normals_of_shapes(shape, seed):
    assert_normals(TorchCpuNoise(seed).normal(shape), torch.randn(shape, generator=torch_stream(seed)))


def test_normals_of_the_global_generator():
    torch.manual_seed(1234)
    assert_normals(TorchCpuNoise(1234).normal(LATENT), torch.randn(LATENT))


@pytest.mark.parametrize("size", [5, 53])
def test_normals_of_many_seeds(size):
    seeds = [*range(500), *(2**k - 1 for k in range(10, 64))]
    wanted = torch.stack([torch.randn(size, generator=torch_stream(seed)) for seed in seeds])
    assert_normals(np.stack([TorchCpuNoise(seed).normal((size,)) for seed in seeds]), wanted)


@given(seed=any_seed, sizes=st.lists(st.integers(0, 70), min_size=1, max_size=12))
@settings(max_examples=300, deadline=None)
def test_successive_draws_of_mixed_sizes(seed, sizes):
    noise, stream = TorchCpuNoise(seed), torch_stream(seed)
    for size in sizes:
        assert_normals(noise.normal((size,)), torch.randn(size, generator=stream))
    np.testing.assert_array_equal(
        noise.uniform(3), torch.rand(3, generator=stream).numpy()
    )  # the same place in the stream


def test_the_spare_of_a_small_draw_outlives_large_and_empty_draws():
    noise, stream = TorchCpuNoise(11), torch_stream(11)
    for size in (3, 64, 0, 17, 1, 2, 15, 16, 1):
        assert_normals(noise.normal((size,)), torch.randn(size, generator=stream))
    pair = TorchCpuNoise(11).normal((4,))
    again = TorchCpuNoise(11)
    again.normal((3,))
    again.normal((64,))
    assert again.normal((1,))[0] == pair[3]


def test_a_batch_equals_successive_draws_only_in_blocks_of_16():
    for size, equal in ((4 * 16 * 16, True), (4 * 9 * 11, False)):
        batch, one_by_one = TorchCpuNoise(5).normal((2, size)), TorchCpuNoise(5)
        assert np.array_equal(batch, np.stack([one_by_one.normal((size,)) for _ in range(2)])) is equal


def test_sources_do_not_share_a_stream():
    first, second = TorchCpuNoise(1), TorchCpuNoise(2)
    drawn = [(first.normal((33,)), second.normal((33,))) for _ in range(3)]
    alone = TorchCpuNoise(1)
    for mine, other in drawn:
        np.testing.assert_array_equal(mine, alone.normal((33,)))
        assert not np.array_equal(mine, other)


def test_follows_the_protocol():
    source: NoiseSource = TorchCpuNoise(0)
    assert math.isfinite(source.normal((1, 4, 8, 8)).sum())


@given(any_seed)
def test_seed_is_the_one_that_torch_keeps(seed):
    assert torch_seed(seed) == torch_stream(seed).initial_seed() % 2**64


@pytest.mark.parametrize("seed", [np.int64(-1), np.uint64(MAX_SEED), np.int32(3), np.array(3)])
def test_integers_of_numpy_are_integers(seed):
    torch.manual_seed(seed)
    assert_normals(TorchCpuNoise(seed).normal((20,)), torch.randn(20))


def test_only_the_low_32_bits_count():
    np.testing.assert_array_equal(TorchCpuNoise(1).normal((64,)), TorchCpuNoise(1 + 2**32).normal((64,)))


@pytest.mark.parametrize(
    "seed",
    [MAX_SEED + 1, MIN_SEED - 1, 10**6000, True, np.True_, 0.0, 1.5, float("nan"), "7", None, [1], np.array([1, 2])],
    ids=lambda seed: f"{type(seed).__name__}-{str(seed)[:12] if not isinstance(seed, int) else hex(seed)[:12]}",
)
def test_other_seeds_are_refused_as_torch_refuses_them(seed):
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        torch.Generator().manual_seed(seed)
    with pytest.raises(InputError, match=f"seed: expected an integer from {MIN_SEED} to {MAX_SEED}, found ") as caught:
        TorchCpuNoise(seed)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)
