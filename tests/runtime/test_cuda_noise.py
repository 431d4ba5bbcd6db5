"""The CUDA stream without a GPU: known answers of Philox, the kernel written out, and numbers that real GPUs gave."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from latentrt.engines.errors import InputError
from latentrt.runtime.cuda_noise import GPUS, Gpu, TorchCudaNoise, parse_gpu, philox4x32
from latentrt.runtime.noise import NoiseSource

RECORDS = sorted((Path(__file__).parent / "data").glob("cuda_noise_*.json"))

# tests/kat_vectors of Random123, the library of Philox's authors: counter, key, answer
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter, key, answer) -> None:
    found = philox4x32(np.array(counter, np.uint64)[:, None], key)
    assert found.dtype == np.uint32
    assert found[:, 0].tolist() == list(answer)


def kernel(seed: int, sizes: list[int], gpu: Gpu) -> list[list[tuple[int, int, int]]]:
    """ATen's `distribution_elementwise_grid_stride_kernel`, thread by thread, over successive draws.

    For each element of each draw: the thread, the philox counter and the word of the block that it is made of.
    """
    drawn, offset = [], 0
    for numel in sizes:
        grid = min(gpu.multiprocessors * (gpu.threads_per_multiprocessor // 256), (numel + 255) // 256)
        stride = 256 * grid
        rounded = ((numel - 1) // (stride * 4) + 1) * stride * 4
        out: list[tuple[int, int, int]] = [(-1, -1, -1)] * numel
        for idx in range(stride):
            counter = offset // 4
            for linear_index in range(idx, rounded, stride * 4):
                for ii in range(4):
                    li = linear_index + stride * ii
                    if li < numel:
                        out[li] = (idx, counter, ii)
                counter += 1
        offset += ((numel - 1) // (stride * 4) + 1) * 4
        drawn.append(out)
    return drawn


@pytest.mark.parametrize("seed", [0, 2**63 + 12345, -7])
def test_the_layout_is_that_of_atens_kernel(seed: int) -> None:
    gpu, sizes = Gpu(2, 512), [5, 256, 1000, 1025, 4096, 4097, 9000, 3]  # 4 blocks: 1,024 threads, 4,096 in a round
    noise, key = TorchCudaNoise(seed, gpu), (seed % 2**64 & 0xFFFFFFFF, seed % 2**64 >> 32)
    for size, places in zip(sizes, kernel(seed, sizes, gpu), strict=True):
        threads, counters, words = (np.array(column, np.uint64) for column in zip(*places, strict=True))
        blocks = philox4x32(np.stack([counters, counters * 0, threads, threads * 0]), key)
        expected = blocks[words.astype(int), np.arange(size)]
        np.testing.assert_array_equal(noise.integers(size), expected)


def test_normals_are_box_mullers_of_the_integers() -> None:
    """In float64, where the formula is exact; sine and cosine of a pair go to the words it came from."""
    gpu, size = Gpu(1, 256), 1024
    bits = TorchCudaNoise(3, gpu).integers(size).reshape(4, 256).astype(np.float64)
    found = TorchCudaNoise(3, gpu).normal((size,)).reshape(4, 256)
    for pair in (0, 2):
        radius = np.sqrt(-2 * np.log((bits[pair].astype(np.float32) + 0.5) * 2.0**-32))
        angle = 2 * math.pi * (bits[pair + 1] + 0.5) * 2.0**-32
        np.testing.assert_allclose(found[pair], radius * np.sin(angle), rtol=0, atol=2e-6)
        np.testing.assert_allclose(found[pair + 1], radius * np.cos(angle), rtol=0, atol=2e-6)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_normals_are_those_that_gpus_gave(path: Path) -> None:
    """Recorded by `python -m latentrt.benchmarks.cuda_noise`, or printed somewhere public; each file says which."""
    record = json.loads(path.read_text())
    gpu = None if record["gpu"] is None else parse_gpu(record["gpu"])
    for stream in record["streams"]:
        normals, integers = TorchCudaNoise(stream["seed"], gpu), TorchCudaNoise(stream["seed"], gpu)
        for draw in stream["draws"]:
            found = normals.normal(draw["shape"])
            assert found.dtype == np.float32
            assert list(found.shape) == draw["shape"]
            np.testing.assert_allclose(
                found.reshape(-1)[:: draw["every"]], draw["normals"], rtol=0, atol=record["tolerance"]
            )
            if "integers_sha256" in draw:
                bits = integers.integers(math.prod(draw["shape"])) & np.uint32(0x7FFFFFFF)
                assert hashlib.sha256(bits.astype("<u4").tobytes()).hexdigest() == draw["integers_sha256"]


def test_gpus_agree_up_to_their_number_of_threads_and_not_beyond() -> None:
    small, large = GPUS["t4"], GPUS["rtx4090"]
    threads = small.blocks * 256
    assert threads == 40_960
    for gpu in (small, large):
        np.testing.assert_array_equal(TorchCudaNoise(1, gpu).normal((threads,)), TorchCudaNoise(1).normal((threads,)))
    beyond = [TorchCudaNoise(1, gpu).normal((threads + 1,)) for gpu in (small, large)]
    np.testing.assert_array_equal(beyond[0][:-1], beyond[1][:-1])
    assert beyond[0][-1] != beyond[1][-1]


def test_all_64_bits_of_a_seed_count_and_empty_draws_cost_nothing() -> None:
    assert not np.array_equal(TorchCudaNoise(1).normal((8,)), TorchCudaNoise(1 + 2**32).normal((8,)))
    source: NoiseSource = TorchCudaNoise(1)
    assert source.normal((2, 0)).shape == (2, 0)
    np.testing.assert_array_equal(source.normal((8,)), TorchCudaNoise(1).normal((8,)))


@pytest.mark.parametrize("name", ["rtx490", "128", "128x100", "0x1536", "x", "128x1536x2"])
def test_other_gpus_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="unknown GPU"):
        parse_gpu(name)


def test_a_gpu_is_a_name_or_two_numbers() -> None:
    assert parse_gpu("128x1536") == parse_gpu("rtx4090") == Gpu(128, 1536)
    assert parse_gpu("rtx4090").blocks == 768
