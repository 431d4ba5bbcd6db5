"""Engines on the processor keep to the threads that they are given, and give the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentrt import Pipeline
from latentrt.engines.engine import Engine
from latentrt.engines.errors import InputError


def threads_of(engine: Engine) -> int:
    if engine.key.backend == "onnxruntime":
        return int(engine._session.get_session_options().intra_op_num_threads)  # type: ignore[attr-defined]
    return int(engine._requests._compiled.main.get_property("INFERENCE_NUM_THREADS"))  # type: ignore[attr-defined]


# onnxruntime gives the same bits; openvino adds up in another order: the bound is that of a sampler's final latent
@pytest.mark.parametrize(("name", "bound"), [("onnxruntime", 0.0), ("openvino", 1e-4)])
def test_an_engine_keeps_to_its_threads_and_draws_the_same(demo_bundle: Path, name: str, bound: float) -> None:
    def drawn(threads: int | None) -> Any:
        with Pipeline.open(demo_bundle, engine=name, threads=threads) as pipe:
            result = pipe.generate("a star", seed=1, num_inference_steps=2)
            return threads_of(pipe.engines["unet"]), result.latents, pipe.engines["unet"].key

    (one, latents, key), (all_, same, same_key) = drawn(1), drawn(None)
    assert one == 1
    assert all_ != 1
    assert np.linalg.norm(latents - same) <= bound * np.linalg.norm(same)
    assert key == same_key


def test_no_thread_is_an_error(demo_bundle: Path) -> None:
    with pytest.raises(InputError, match="threads is a whole number, 1 or more; got 0"):
        Pipeline.open(demo_bundle, threads=0)
