"""What is rewritten for ONNX Runtime's CPU answers as before, pass by pass, in nodes that it has kernels for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from latentrt.engines.bundle import Bundle
from latentrt.engines.onnxruntime_backend import BACKEND, GRAPH
from latentrt.engines.passes.group_norm import to_instance_norm
from latentrt.engines.passes.multi_head import DOMAIN, to_multi_head
from latentrt.engines.passes.reading import read_model
from latentrt.engines.tensor import resolve_shape

ATTENTIONS = {"unet": 14, "vae_encoder": 1, "vae_decoder.kl-f8": 1}  # of the demo model
PASSES = [to_multi_head, to_instance_norm]
each_component = pytest.mark.parametrize("component", ATTENTIONS)


def session(graph: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


@each_component
@pytest.mark.parametrize("rewrite", PASSES, ids=lambda rewrite: rewrite.__name__)
def test_the_answers_are_those_of_the_graph_as_it_was(
    demo_bundle: Path, tmp_path: Path, component: str, rewrite: Callable[[ir.Model], bool]
) -> None:
    bundle, rng = Bundle.open(demo_bundle), np.random.default_rng(0)
    model = read_model(bundle.graph(component))
    assert rewrite(model)
    ir.save(model, tmp_path / "graph.onnx", external_data="weights.bin")
    rewritten, standard = session(tmp_path / "graph.onnx"), session(bundle.graph(component))
    for rows, height, width, tokens in ((1, 4, 3, 77), (3, 2, 5, 5)):
        sizes = {"rows": rows, "height": height, "width": width, "tokens": tokens}
        feeds = {
            spec.name: rng.standard_normal(resolve_shape(spec.shape, sizes)).astype(spec.dtype)
            for spec in bundle.component(component).inputs
        }
        for found, expected in zip(rewritten.run(None, feeds), standard.run(None, feeds), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # sums in another order
    assert not rewrite(model)


@each_component
def test_every_attention_is_rewritten_and_its_reshapes_go(demo_bundle: Path, component: str) -> None:
    model = read_model(Bundle.open(demo_bundle).graph(component))
    before = Counter(node.op_type for node in model.graph)
    to_multi_head(model)
    after = Counter(node.op_type for node in model.graph)
    assert before["Attention"] == after["MultiHeadAttention"] == ATTENTIONS[component]
    assert after["Attention"] == 0
    for gone in ("Transpose", "Reshape"):
        assert before[gone] - after[gone] == 4 * ATTENTIONS[component]
    assert {node.domain for node in model.graph if node.op_type == "MultiHeadAttention"} == {DOMAIN}


def test_attention_under_a_mask_stays(demo_bundle: Path) -> None:
    model = read_model(Bundle.open(demo_bundle).graph("text_encoder"))
    before = [node.op_type for node in model.graph]
    assert "Attention" in before
    assert not to_multi_head(model)
    assert [node.op_type for node in model.graph] == before
    assert DOMAIN not in model.graph.opset_imports


@each_component
def test_a_built_engine_holds_norms_and_attention_whole(demo_bundle: Path, tmp_path: Path, component: str) -> None:
    """ONNX Runtime writes a GroupNormalization out in nodes that no other part of these networks has."""
    bundle = Bundle.open(demo_bundle)
    BACKEND.build(bundle, component, tmp_path)
    nodes = Counter(node.op_type for node in onnx.load(tmp_path / GRAPH, load_external_data=False).graph.node)
    norms = sum(node.op_type == "GroupNormalization" for node in read_model(bundle.graph(component)).graph)
    assert (nodes["InstanceNormalization"], nodes["MultiHeadAttention"]) == (norms, ATTENTIONS[component])
    assert not nodes.keys() & {"Attention", "GroupNormalization", "ReduceMean", "Sqrt"}


def test_tensors_that_are_asked_for_keep_their_names(demo_bundle: Path) -> None:
    """`verify --bisect` marks tensors of a graph as outputs: what it fuses must not be among those inside."""
    model = read_model(Bundle.open(demo_bundle).graph("vae_decoder.kl-f8"))
    [attention] = (node for node in model.graph if node.op_type == "Attention")
    transposed = next(iter(attention.outputs[0].uses())).node.outputs[0]
    joined = next(iter(transposed.uses())).node.outputs[0]
    model.graph.outputs.append(joined)
    asked = [value.name for value in model.graph.outputs]
    assert to_multi_head(model)
    assert [value.name for value in model.graph.outputs] == asked
    model = read_model(Bundle.open(demo_bundle).graph("vae_decoder.kl-f8"))
    [attention] = (node for node in model.graph if node.op_type == "Attention")
    model.graph.outputs.append(attention.outputs[0])
    assert not to_multi_head(model)
