"""A network's outline -> its ONNX graph, weights by name only: what a network computes does not depend on them."""

from __future__ import annotations

import gc
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.export import Dim

from latentrt.engines.tensor import TensorSpec, resolve_shape, split_dimension

from .wrappers import Network

OPSET = 23  # the first with Attention; TensorRT 10.14, onnxruntime 1.23 and OpenVINO read it
_EXAMPLE = {"rows": 2, "height": 3, "width": 5, "tokens": 77}  # all different, none 1: torch.export merges equal sizes
# diffusers' Upsample2D makes its input contiguous from 64 rows on. A graph knows no memory order, so it holds for more;
# without the bound torch.export would find this out by itself, by tracing everything twice.
MAX_ROWS = 63
_NOWHERE = ""  # the file of a weight that is only named


def trace(outline: Network) -> bytes:
    """The graph of a network on the meta device, as a serialized ONNX model without the bytes of its weights.

    It takes any number of rows and tokens, any height and width that the network's specs allow, and nothing in it tells
    of the machine. Tensors that have the name of a parameter or a buffer of the module refer to a file without a name.
    """
    program = _traced(outline)
    _name_dimensions(program, outline)
    strip(program.model)
    names = {name for name, _ in named_tensors(outline)}
    for name in names & program.model.graph.initializers.keys():
        _only_name(program.model.graph.initializers[name])
    return ir.to_proto(program.model).SerializeToString()  # type: ignore[no-any-return]


def named_tensors(network: Network) -> Iterator[tuple[str, Tensor]]:
    """The module's parameters and buffers by the names that its graph has for them."""
    yield from network.module.named_parameters()
    yield from network.module.named_buffers()


def _only_name(weight: ir.Value) -> None:
    stated = weight.const_value
    assert stated is not None
    weight.const_value = ir.ExternalTensor(
        _NOWHERE, 0, stated.nbytes, stated.dtype, shape=stated.shape, name=str(weight.name)
    )


def _traced(outline: Network) -> torch.onnx.ONNXProgram:
    dims = {name: Dim(name, max=MAX_ROWS) if name == "rows" else Dim(name) for name in _EXAMPLE}
    with torch.no_grad(), _quiet(), _uncollected():
        program = torch.onnx.export(
            outline.module,
            tuple(_example(spec) for spec in outline.inputs),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=tuple(_dynamic(spec, dims) for spec in outline.inputs),
            input_names=[spec.name for spec in outline.inputs],
            output_names=[spec.name for spec in outline.outputs],
            optimize=False,  # folding constants needs the weights
            verbose=False,
        )
    assert program is not None
    return program


def _example(spec: TensorSpec) -> Tensor:
    return torch.ones(resolve_shape(spec.shape, _EXAMPLE), dtype=getattr(torch, spec.dtype), device="meta")


def _dynamic(spec: TensorSpec, dims: dict[str, Any]) -> dict[int, Any]:
    result = {}
    for axis, dimension in enumerate(spec.shape):
        if isinstance(dimension, str):
            factor, name = split_dimension(dimension)
            result[axis] = dims[name] if factor == 1 else factor * dims[name]
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the console clean: each silenced line is known, is about PyTorch's own insides, and changes nothing."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")  # "torchvision is not installed" x 4
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch copies its own deprecated tree specs
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            # the three inputs of the UNet share their rows, as they should
            warnings.filterwarnings("ignore", "# The axis name: .* will not be used", UserWarning)
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let no garbage collector look at the millions of small objects that a trace keeps: an eighth of its time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _name_dimensions(program: torch.onnx.ONNXProgram, outline: Network) -> None:
    """Give every free dimension the name that the specs state; torch calls them `s89`, alone and in products."""
    assert program.exported_program is not None
    names: dict[str, str] = {}
    placeholders = {node.name: node for node in program.exported_program.graph.find_nodes(op="placeholder")}
    for name, spec in zip(program.exported_program.graph_signature.user_inputs, outline.inputs, strict=True):
        for length, dimension in zip(placeholders[str(name)].meta["val"].shape, spec.shape, strict=True):
            if isinstance(dimension, str):
                (symbol,) = length.node.expr.free_symbols  # 8*s89 for "8*height"
                names[str(symbol)] = split_dimension(dimension)[1]
    for value in _values(program.model.graph):
        if value.shape is not None:
            value.shape = ir.Shape([_named(dimension, names) for dimension in value.shape])
    for value, spec in zip(program.model.graph.outputs, outline.outputs, strict=True):
        value.shape = ir.Shape(spec.shape)


def _named(dimension: int | ir.SymbolicDim, names: dict[str, str]) -> int | str | None:
    if isinstance(dimension, int) or dimension.value is None:
        return dimension if isinstance(dimension, int) else None
    return re.sub(r"\bs\d+\b", lambda match: names[match[0]], str(dimension.value))


def strip(model: ir.Model) -> None:
    """Remove what tracing and rewriting noted of themselves: each node's stack trace holds absolute paths."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in _values(model.graph):
        value.metadata_props.clear()
        value.doc_string = None


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs
