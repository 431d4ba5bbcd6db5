"""ONNX Runtime's own attention answers as the standard one, takes less memory, and stands wherever it may."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from latentrt.engines.bundle import Bundle
from latentrt.engines.passes.multi_head import DOMAIN, multi_head_bytes, to_multi_head
from latentrt.engines.tensor import resolve_shape

FUSED = {"unet": 14, "vae_encoder": 1, "vae_decoder.kl-f8": 1}  # attentions of the demo model


def session(graph: Path | bytes, folder: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("component", FUSED)
def test_the_answers_are_those_of_the_standard_operator(demo_bundle: Path, component: str) -> None:
    bundle, rng = Bundle.open(demo_bundle), np.random.default_rng(0)
    graph = bundle.graph(component)
    rewritten, standard = session(multi_head_bytes(graph), graph.parent), session(graph, graph.parent)
    for sizes in (
        {"rows": 1, "height": 4, "width": 3, "tokens": 77},
        {"rows": 3, "height": 2, "width": 5, "tokens": 5},
    ):
        feeds = {
            spec.name: rng.standard_normal(resolve_shape(spec.shape, sizes)).astype(spec.dtype)
            for spec in bundle.component(component).inputs
        }
        for found, expected in zip(rewritten.run(None, feeds), standard.run(None, feeds), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # sums in another order


@pytest.mark.parametrize("component", FUSED)
def test_every_attention_is_rewritten_and_its_reshapes_go(demo_bundle: Path, component: str) -> None:
    model = ir.load(Bundle.open(demo_bundle).graph(component))
    before = Counter(node.op_type for node in model.graph)
    assert to_multi_head(model)
    after = Counter(node.op_type for node in model.graph)
    assert before["Attention"] == after["MultiHeadAttention"] == FUSED[component]
    assert after["Attention"] == 0
    for gone in ("Transpose", "Reshape"):
        assert before[gone] - after[gone] == 4 * FUSED[component]
    assert {node.domain for node in model.graph if node.op_type == "MultiHeadAttention"} == {DOMAIN}
    assert not to_multi_head(model)


def test_attention_under_a_mask_stays(demo_bundle: Path) -> None:
    model = ir.load(Bundle.open(demo_bundle).graph("text_encoder"))
    before = [node.op_type for node in model.graph]
    assert "Attention" in before
    assert not to_multi_head(model)
    assert [node.op_type for node in model.graph] == before
    assert DOMAIN not in model.graph.opset_imports
