"""fp16 graphs of the demo do not overflow on extreme inputs; and a graph that does is found out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from latentrt.benchmarks.extreme_inputs import batches, search, search_model
from latentrt.engines.bundle import Bundle
from latentrt.engines.passes.half import FLOAT, to_half
from latentrt.engines.tensor import TensorSpec

SAMPLE = TensorSpec(name="sample", dtype="float32", shape=("rows", 4, "height", "width"))


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8"])
def test_nothing_overflows(demo_bundle: Path, component: str) -> None:
    found = search(Bundle.open(demo_bundle), component, 30, old=True)  # where scores of attention are tensors, too
    assert found.inputs == 30
    assert found.overflowed == {}
    assert found.largest[0] > 1


def test_an_overflow_that_the_answer_hides_is_found() -> None:
    x = ir.Value(name="sample", shape=ir.Shape(SAMPLE.shape), type=ir.TensorType(FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 23})
    value = x
    for name, factor in (("far", 1e4), ("back", 1e-4)):
        constant = ir.Value(name=f"{name}.by", const_value=ir.tensor(np.float32(factor)), type=ir.TensorType(FLOAT))
        graph.register_initializer(constant)
        node = ir.node("Mul", [value, constant], name=name)
        graph.append(node)
        value = node.outputs[0]
        value.name, value.shape, value.type = name, x.shape, ir.TensorType(FLOAT)
    graph.outputs.append(value)
    to_half(graph)
    found = search_model(ir.Model(graph, ir_version=10), (SAMPLE,), 30)
    assert "far" in found.overflowed
    assert 0 < found.overflowed["far"] < 1  # latents of scale 1 stay below 65504, those of 157 do not


def test_inputs_are_finite_and_of_many_scales() -> None:
    drawn = np.concatenate([feeds["sample"] for feeds in batches((SAMPLE,), 100)])
    assert drawn.shape == (100, 4, 2, 2)
    assert np.isfinite(drawn).all()
    largest = np.abs(drawn).max(axis=(1, 2, 3))
    assert (largest == 0).any()
    assert (largest > 100).any()
