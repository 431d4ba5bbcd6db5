"""Nodes are those that onnx reads, and marked tensors are outputs for onnx and onnxruntime alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import BundleError
from latentrt.engines.graph import ancestors, read_nodes, with_outputs

MakeFeeds = Callable[[str, int, int, int], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def unet(tiny_original: Path) -> Path:
    return Bundle.open(tiny_original).graph("unet")


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8"])
def test_nodes_are_those_that_onnx_reads(tiny_original: Path, component: str) -> None:
    path = Bundle.open(tiny_original).graph(component)
    found = read_nodes(path.read_bytes(), "graph")
    expected = onnx.load(path, load_external_data=False).graph.node
    assert [(n.name, n.op, n.inputs, n.outputs) for n in found] == [
        (n.name, n.op_type, tuple(filter(None, n.input)), tuple(n.output)) for n in expected
    ]


def test_marked_tensors_are_outputs(unet: Path, feeds_for: MakeFeeds) -> None:
    feeds = feeds_for("unet", 2, 2, 3)
    marked = with_outputs(unet.read_bytes(), ["convolved", "text"])
    model = onnx.load_from_string(marked)
    assert [value.name for value in model.graph.output] == ["out_sample", "convolved", "text"]
    model.graph.node[0].name = "the rest is as it was"
    onnx.load_external_data_for_model(model, str(unet.parent))
    expected = ReferenceEvaluator(model).run(None, feeds)
    file = unet.with_name("marked.onnx")
    file.write_bytes(marked)
    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        found = session.run(["out_sample", "convolved", "text"], feeds)
    finally:
        file.unlink()
    for array, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, reference, rtol=1e-4, atol=1e-5)


def test_a_stated_type_and_shape_are_repeated(unet: Path) -> None:
    model = onnx.load(unet, load_external_data=False)
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("text", onnx.TensorProto.FLOAT, ["rows", 1, 1, 1]))
    marked = onnx.load_from_string(with_outputs(model.SerializeToString(), ["text", "mean"]))
    assert marked.graph.output[1] == model.graph.value_info[0]
    assert marked.graph.output[2] == onnx.ValueInfoProto(name="mean")


def test_ancestors_are_what_a_tensor_is_computed_from(unet: Path) -> None:
    nodes = read_nodes(unet.read_bytes(), "unet")
    assert ancestors(nodes, "time") == ["axes", "t"]
    assert ancestors(nodes, "convolved") == []
    before_the_end = [name for node in nodes for name in node.outputs if name != "out_sample"]
    assert ancestors(nodes, "out_sample") == before_the_end


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(BundleError, match="unet is not an ONNX model"):
        read_nodes(b"\xff\xff", "unet")
