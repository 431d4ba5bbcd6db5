"""Opset 20: the same answers in ONNX Runtime, valid ONNX, and no operator that came later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx import helper as oh

from latentrt.engines.bundle import Bundle
from latentrt.engines.passes.prepared import prepare
from latentrt.engines.passes.reading import read_model
from latentrt.engines.passes.static import make_static
from latentrt.engines.passes.written_out import OPSET, write_out
from latentrt.engines.tensor import resolve_shape

COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8")
BOUND = {"rows": 2, "height": 2, "width": 3, "tokens": 77}
LATER = {"Attention", "GroupNormalization"}
Feeds = dict[str, NDArray[Any]]


def answers(model: str | bytes, feeds: Feeds) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found: list[NDArray[Any]] = session.run(None, feeds)
    return found


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("static", [False, True], ids=["free", "static"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_answers_as_before(demo_bundle: Path, tmp_path: Path, component: str, static: bool) -> None:
    bundle = Bundle.open(demo_bundle)
    graph = bundle.graph(component)
    old = prepare(graph, tmp_path / "graph.onnx", bound=BOUND if static else None, half=None, old=True)
    onnx.checker.check_model(str(old), full_check=True)
    model = onnx.load(old, load_external_data=False)
    assert [entry.version for entry in model.opset_import] == [OPSET]
    assert not LATER.intersection(node.op_type for node in model.graph.node)
    rng = np.random.default_rng(0)
    feeds = {
        spec.name: rng.standard_normal(resolve_shape(spec.shape, BOUND)).astype(spec.dtype)
        for spec in bundle.component(component).inputs
    }
    for found, expected in zip(answers(str(old), feeds), answers(str(graph), feeds), strict=True):
        assert relative(found, expected) <= 1e-5


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_fp16_form_is_valid_and_static_shapes_are_constants(
    demo_bundle: Path, tmp_path: Path, component: str
) -> None:
    old = prepare(
        Bundle.open(demo_bundle).graph(component), tmp_path / "graph.onnx", bound=BOUND, half="fp16", old=True
    )
    onnx.checker.check_model(str(old), full_check=True)
    assert "Shape" not in {node.op_type for node in onnx.load(old, load_external_data=False).graph.node}


def attention(shape: tuple[int, ...], masks: dict[str, Any] | None = None, **attributes: Any) -> onnx.ModelProto:
    """A model of one Attention, queries `shape`, keys and values one longer; named masks are its constants."""
    masks = masks or {}
    longer = (*shape[:-2], shape[-2] + 1, shape[-1])
    inputs = [
        oh.make_tensor_value_info(name, TensorProto.FLOAT, lengths)
        for name, lengths in (("q", shape), ("k", longer), ("v", longer))
    ]
    constants = [onnx.numpy_helper.from_array(np.asarray(mask), name) for name, mask in masks.items()]
    node = oh.make_node("Attention", ["q", "k", "v", *masks], ["y"], name="one", **attributes)
    output = oh.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = oh.make_graph([node], "attention", inputs, [output], constants)
    return oh.make_model(graph, ir_version=10, opset_imports=[oh.make_opsetid("", 23)])


def written(model: onnx.ModelProto) -> bytes:
    rewritten = ir.from_proto(model)
    assert write_out(rewritten)
    proto = ir.to_proto(rewritten)
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString()
    return content


FLAT = {"q_num_heads": 2, "kv_num_heads": 2}
SEEN = np.tri(5, 6, dtype=bool)


@pytest.mark.parametrize(
    ("shape", "masks", "attributes"),
    [
        ((2, 3, 5, 8), {}, {}),
        ((2, 3, 5, 8), {}, {"scale": 0.3}),
        ((2, 5, 16), {}, FLAT),
        ((2, 5, 16), {"mask": SEEN}, FLAT | {"scale": 0.5}),
        ((2, 3, 5, 8), {"mask": SEEN}, {}),
        ((2, 3, 5, 8), {"mask": np.float32(SEEN) * 3}, {}),
        ((2, 3, 5, 8), {}, {"is_causal": 1}),
    ],
    ids=["plain", "scaled", "flat", "flat masked", "masked", "offset", "causal"],
)
def test_each_form_of_attention(shape: tuple[int, ...], masks: dict[str, Any], attributes: dict[str, Any]) -> None:
    model = attention(shape, masks, **attributes)
    rng = np.random.default_rng(1)
    feeds = {
        value.name: rng.standard_normal([d.dim_value for d in value.type.tensor_type.shape.dim]).astype(np.float32)
        for value in model.graph.input
    }
    [found], [expected] = (answers(content, feeds) for content in (written(model), model.SerializeToString()))
    assert relative(found, expected) <= 1e-5


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        (attention((2, 3, 5, 8), softcap=2.0), "one asks for softcap"),
        (attention((2, 5, 16), q_num_heads=4, kv_num_heads=2), "one asks for fewer heads of keys than of queries"),
    ],
)
def test_what_is_not_written_out_is_refused(model: onnx.ModelProto, asked: str) -> None:
    with pytest.raises(NotImplementedError, match=asked):
        write_out(ir.from_proto(model))


def test_an_operator_that_came_later_is_named() -> None:
    x, scale = (ir.Value(name=n, shape=ir.Shape([2, 4]), type=ir.TensorType(ir.DataType.FLOAT)) for n in ("x", "s"))
    node = ir.node("RMSNormalization", [x, scale], name="norm")
    graph = ir.Graph([x, scale], node.outputs, nodes=[node], opset_imports={"": 23})
    with pytest.raises(NotImplementedError, match=r"opset 20 has no RMSNormalization \(norm\)"):
        write_out(ir.Model(graph, ir_version=10))


def test_a_model_that_is_old_already_stays(demo_bundle: Path) -> None:
    model = read_model(Bundle.open(demo_bundle).graph("text_encoder"))
    assert write_out(model)
    assert not write_out(model)


def test_no_weight_stays_that_nothing_takes(demo_bundle: Path) -> None:
    model = read_model(Bundle.open(demo_bundle).graph("unet"))
    write_out(model)
    make_static(model, BOUND)
    assert all(value.uses() for value in model.graph.initializers.values())
