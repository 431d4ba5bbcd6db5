"""What a graph's tensors take while it runs: by hand for a small graph, and for every size at once."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto
from onnx import helper as oh

from latentrt.engines.errors import BundleError, EngineError
from latentrt.engines.working_set import WorkingSet, most_bytes, working_sets


def _model(nodes: list[onnx.NodeProto], shapes: dict[str, list[int | str]], outputs: list[str]) -> bytes:
    values = {name: oh.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    inner = [value for name, value in values.items() if name not in {"x", *outputs}]
    graph = oh.make_graph(nodes, "g", [values["x"]], [values[name] for name in outputs], value_info=inner)
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 23)]).SerializeToString()


def test_a_tensor_lives_until_it_was_last_read_and_a_view_takes_nothing() -> None:
    nodes = [
        oh.make_node("Relu", ["x"], ["a"]),  # a
        oh.make_node("Reshape", ["a", "shape"], ["view"]),  # a
        oh.make_node("Concat", ["view", "view"], ["b"], axis=1),  # a, b
        oh.make_node("Relu", ["b"], ["y"]),  # b, y
    ]
    narrow, wide = ["rows", 3, "8*height"], ["rows", 6, "8*height"]
    model = _model(nodes, {"x": narrow, "a": narrow, "view": ["rows", 3, "4*height", 2], "b": wide, "y": wide}, ["y"])
    assert working_sets(model, "here") == (WorkingSet(tensors={"height*rows": 4 * 8 * (6 + 6)}),)
    assert most_bytes(working_sets(model, "here"), {"rows": 2, "height": 5}) == 2 * 5 * 384


def test_scores_of_attention_are_told_apart_and_the_greatest_moment_depends_on_the_size() -> None:
    nodes = [
        oh.make_node("Attention", ["x", "x", "x"], ["a"]),
        oh.make_node("Concat", ["a"] * 100, ["b"], axis=1),
    ]
    shape = ["rows", 2, "height*width", 10]
    model = _model(nodes, {"x": shape, "a": shape, "b": ["rows", 200, "height*width", 10]}, ["b"])
    sets = working_sets(model, "here")
    assert WorkingSet(tensors={"height*rows*width": 80}, scores={"height*height*rows*width*width": 8}) in sets
    few, many = {"rows": 1, "height": 2, "width": 2}, {"rows": 1, "height": 100, "width": 100}
    assert most_bytes(sets, few) == 4 * 80 * 101
    assert most_bytes(sets, many) == 10_000 * 80 + 8 * 10_000**2
    assert most_bytes(sets, many, scores=0) == 10_000 * 80 * 101


def test_a_graph_that_does_not_state_its_shapes_is_no_guess() -> None:
    nodes = [oh.make_node("Relu", ["x"], ["a"]), oh.make_node("Relu", ["a"], ["y"])]
    with pytest.raises(EngineError, match="here does not state the shape of a"):
        working_sets(_model(nodes, {"x": ["rows"], "y": ["rows"]}, ["y"]), "here")
    with pytest.raises(BundleError, match="here is not an ONNX model"):
        working_sets(b"\xff\xff", "here")
