"""The walk over ONNX's wire format finds what protobuf's own parsers find, and survives any bytes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto
from onnx import helper as oh
from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors

from latentrt.engines import external_data
from latentrt.engines.errors import BundleError
from latentrt.engines.external_data import external_locations


def outside(location: str) -> TensorProto:
    tensor = TensorProto(name=f"w of {location}", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def sparse(location: str) -> SparseTensorProto:
    return SparseTensorProto(values=outside(f"{location}.values"), indices=outside(f"{location}.indices"), dims=[9])


def everything() -> ModelProto:
    """A model with external data in every place that can hold a tensor."""
    model = ModelProto(ir_version=10)
    inner = GraphProto(initializer=[outside("if")], sparse_initializer=[sparse("if.sparse")])
    inner.node.append(NodeProto(op_type="Loop", attribute=[oh.make_attribute("body", GraphProto(name="loop"))]))
    inner.node[0].attribute[0].g.initializer.append(outside("loop"))
    node = model.graph.node.add(op_type="If")
    node.attribute.add(name="then_branch", type=AttributeProto.GRAPH, g=inner)
    node.attribute.add(name="graphs", type=AttributeProto.GRAPHS, graphs=[GraphProto(initializer=[outside("graphs")])])
    node.attribute.add(name="value", type=AttributeProto.TENSOR, t=outside("constant"))
    node.attribute.add(name="values", type=AttributeProto.TENSORS, tensors=[outside("tensors"), outside("tensors2")])
    node.attribute.add(name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse("attribute.sparse"))
    node.attribute.add(name="sparse", type=AttributeProto.SPARSE_TENSORS, sparse_tensors=[sparse("attribute.sparses")])
    model.graph.initializer.extend([outside("weights.safetensors"), oh.make_tensor("inline", 1, [1], [0.0])])
    model.graph.sparse_initializer.append(sparse("sparse"))
    function = model.functions.add(name="f")
    function.node.add(op_type="Constant").attribute.add(name="value", type=AttributeProto.TENSOR, t=outside("function"))
    function.attribute_proto.add(name="default", type=AttributeProto.TENSOR, t=outside("function.default"))
    training = model.training_info.add()
    training.initialization.initializer.append(outside("training.init"))
    training.algorithm.initializer.append(outside("training.algorithm"))
    return model


def tensors_in(message: Message) -> Iterator[TensorProto]:
    """Every tensor anywhere in a message, by protobuf's own reflection."""
    if isinstance(message, TensorProto):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in [value] if isinstance(value, Message) else value:
                yield from tensors_in(child)


def locations_in(tensors: Iterator[TensorProto] | Any) -> set[str]:
    return {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


ONNX_NAMES = {kind: f"{kind.title()}Proto" for kind in external_data._FIELDS}
ONNX_NAMES |= {"training": "TrainingInfoProto", "sparse": "SparseTensorProto"}


def messages_in(descriptor: Any, found: dict[str, dict[int, str]]) -> dict[str, dict[int, str]]:
    """Message -> {field number: message found there}, for all messages that one of this kind may hold."""
    if descriptor.name not in found:
        children = [f for f in descriptor.fields if f.message_type is not None]
        found[descriptor.name] = {f.number: f.message_type.name for f in children}
        for child in children:
            messages_in(child.message_type, found)
    return found


def test_every_place_that_onnx_has_for_a_tensor_is_walked() -> None:
    """The table of fields is the one that onnx's own message descriptors give."""
    held = messages_in(ModelProto.DESCRIPTOR, {})
    leading = {"TensorProto"}  # the messages that lead to a tensor
    while more := {name for name, fields in held.items() if leading & set(fields.values())} - leading:
        leading |= more
    by_onnx = {
        name: {n: kind for n, kind in held[name].items() if kind in leading} for name in leading - {"TensorProto"}
    }
    ours = {ONNX_NAMES[kind]: fields for kind, fields in external_data._FIELDS.items()}
    assert ours.pop("TensorProto") == {TensorProto.DESCRIPTOR.fields_by_name["external_data"].number: "external"}
    assert {name: {n: ONNX_NAMES[kind] for n, kind in fields.items()} for name, fields in ours.items()} == by_onnx


def test_all_places_are_found() -> None:
    model = everything()
    found = external_locations(model.SerializeToString(), "all.onnx")
    assert found == locations_in(tensors_in(model))
    assert len(found) == 19
    by_onnx = {ExternalDataInfo(t).location for t in _get_all_tensors(model) if t.external_data}
    assert by_onnx < found  # onnx's own walk leaves sparse tensors, training and function defaults out


def test_real_graphs_agree_with_onnx(tiny_original: Path) -> None:
    for graph in sorted((tiny_original / "onnx").glob("*.onnx")):
        model = onnx.load(graph, load_external_data=False)
        by_onnx = {ExternalDataInfo(t).location for t in _get_all_tensors(model) if t.external_data}
        assert external_locations(graph.read_bytes(), graph.name) == by_onnx
        assert by_onnx <= {f"{graph.stem}.safetensors"}


def test_a_graph_without_external_data_names_none() -> None:
    inline = GraphProto(initializer=[oh.make_tensor("w", 1, [2], [1.0, 2.0])])
    assert external_locations(ModelProto(graph=inline).SerializeToString(), "m.onnx") == set()


def test_each_location_of_a_tensor_counts() -> None:
    """Parsers differ in which of two entries they take; an entry counts even where the tensor says it is inline."""
    tensor = outside("first")
    tensor.external_data.add(key="location", value="second")
    tensor.external_data.add(key="location")
    tensor.data_location = TensorProto.DEFAULT
    model = ModelProto(graph=GraphProto(initializer=[tensor]))
    assert external_locations(model.SerializeToString(), "m.onnx") == {"first", "second", ""}


ATTRIBUTES = st.text(max_size=4).map(lambda location: AttributeProto(name="a", t=outside(location)))
GRAPHS = st.recursive(
    st.builds(GraphProto, initializer=st.lists(st.text(max_size=6).map(outside), max_size=3)),
    lambda graphs: st.builds(
        lambda inner, attribute, s: GraphProto(
            node=[NodeProto(attribute=[AttributeProto(g=inner[0], graphs=inner[1:]), attribute])],
            sparse_initializer=[sparse(s)],
        ),
        st.lists(graphs, min_size=1, max_size=3),
        ATTRIBUTES,
        st.text(max_size=4),
    ),
    max_leaves=8,
)


@given(GRAPHS)
def test_any_nesting_agrees_with_protobuf(graph: GraphProto) -> None:
    model = ModelProto(graph=graph)
    assert external_locations(model.SerializeToString(), "m.onnx") == locations_in(tensors_in(model))


def number(value: int) -> bytes:
    """A varint."""
    encoded = b""
    while value > 127:
        encoded, value = encoded + bytes([value & 127 | 128]), value >> 7
    return encoded + bytes([value])


def field(tag: int, payload: bytes) -> bytes:
    return number(tag) + number(len(payload)) + payload


GRAPH, INITIALIZER, GROUP = 7 << 3 | 2, 5 << 3 | 2, 7 << 3 | 3
HOSTILE = {
    "no field 0": (b"\x02\x00", "field number 0 at byte 1"),
    "group": (bytes([GROUP]), "wire type 3"),
    "cut number": (b"\x08\x80", "it ends in the middle of a number, at byte 2"),
    "endless number": (b"\x08" + b"\xff" * 11, "a number without end"),
    "cut field": (number(GRAPH) + b"\x05abc", "it ends in the middle of a field, at byte 5"),
    "huge field": (number(GRAPH) + number(2**63), "it ends in the middle of a field"),
    "cut fixed": (b"\x0d\0\0", "it ends in the middle of a field"),
    "text": (b"#!/bin/sh\n", "is not an ONNX model"),
    "pickle": (b"\x80\x04\x95", "is not an ONNX model"),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_model(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=r"^m\.onnx is not an ONNX model") as caught:
        external_locations(data, "m.onnx")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_location_that_is_no_text_is_refused() -> None:
    data = ModelProto(graph=GraphProto(initializer=[outside("abc")])).SerializeToString()
    with pytest.raises(BundleError, match="not an ONNX model"):
        external_locations(data.replace(b"abc", b"a\xffc"), "m.onnx")


def test_a_field_cannot_hide_behind_a_number_that_onnxruntime_cuts_to_32_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.array([3, 5], np.float32).tofile(tmp_path / "secret")
    graph = oh.make_graph([oh.make_node("Identity", ["w"], ["y"])], "g", [], [oh.make_tensor_value_info("y", 1, [2])])
    tensor = outside("secret")
    tensor.name = "w"
    hidden = field(INITIALIZER + 2**32, tensor.SerializeToString())
    head = ModelProto(ir_version=10, opset_import=[oh.make_opsetid("", 21)]).SerializeToString()
    data = head + field(GRAPH, graph.SerializeToString() + hidden)
    (tmp_path / "m.onnx").write_bytes(data)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {})[0], [3, 5])  # so it does read the file
    with pytest.raises(BundleError, match="field number 536870917"):
        external_locations(data, "m.onnx")


def nested(depth: int) -> bytes:
    graph = GraphProto(initializer=[outside("deep")]).SerializeToString()
    for _ in range(depth):
        attribute = field(6 << 3 | 2, graph)
        graph = field(1 << 3 | 2, field(5 << 3 | 2, attribute))
    return field(GRAPH, graph)


def test_nesting_is_bounded() -> None:
    assert external_locations(nested(15), "m.onnx") == {"deep"}
    for depth in (30, 300, 3000):
        with pytest.raises(BundleError, match="nested too deeply"):
            external_locations(nested(depth), "m.onnx")


@pytest.mark.parametrize(
    "data",
    [b"\x0a\x00" * 250_000, field(GRAPH, b"\x0a\x00" * 250_000), nested(20) * 500, b"\x08" + b"\x80" * 500_000],
    ids=["empty fields", "empty nodes", "nests", "long number"],
)
def test_half_a_megabyte_of_junk_takes_linear_time(data: bytes) -> None:
    started = time.process_time()
    with suppress(BundleError):
        external_locations(data, "m.onnx")
    assert time.process_time() - started < 10  # 1 s at most on a slow core


def check_any_bytes(data: bytes) -> None:
    """A set of names or BundleError, and no name missed that protobuf finds."""
    try:
        found = external_locations(data, "m.onnx")
    except BundleError:
        return
    assert all(isinstance(location, str) for location in found)
    try:
        model = ModelProto.FromString(data)
    except DecodeError:
        return
    assert found >= locations_in(tensors_in(model))


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    check_any_bytes(data)


EVERYTHING = everything().SerializeToString()
MUTATIONS: list[Callable[[random.Random, bytearray], None]] = [
    lambda rng, data: data.__setitem__(rng.randrange(len(data)), rng.randrange(256)),
    lambda rng, data: data.__delitem__(slice(at := rng.randrange(len(data)), at + rng.randrange(8))),
    lambda rng, data: data.insert(rng.randrange(len(data)), rng.randrange(256)),
    lambda rng, data: data.extend(data[rng.randrange(len(data)) :][:50]),
]


@given(st.randoms(use_true_random=False), st.integers(1, 5))
def test_mutated_models(rng: random.Random, count: int) -> None:
    data = bytearray(EVERYTHING)
    for _ in range(count):
        rng.choice(MUTATIONS)(rng, data)
    check_any_bytes(bytes(data))


def test_flipped_bits_all_over_a_model() -> None:
    for bit in range(0, 8 * len(EVERYTHING), 5):  # 5 is prime to 8: all bits of a byte have their turn
        data = bytearray(EVERYTHING)
        data[bit // 8] ^= 1 << bit % 8
        check_any_bytes(bytes(data))
