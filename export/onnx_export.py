"""One network -> an ONNX graph, its weights beside it in a safetensors file. The same network gives the same bytes."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file
from torch import Tensor
from torch.export import Dim

from latentrt.engines.errors import CheckpointError
from latentrt.engines.manifest import ExportPrecision
from latentrt.engines.passes.half import to_half
from latentrt.engines.tensor import TensorSpec, resolve_shape, split_dimension

from .wrappers import Network

OPSET = 23  # the first with Attention; TensorRT 10.14, onnxruntime 1.23 and OpenVINO read it
INLINE_BYTES = 1024  # smaller tensors (biases, shapes, scales) stay in the graph, where parsers want shapes to be
_EXAMPLE = {"rows": 2, "height": 3, "width": 5, "tokens": 77}  # all different, none 1: torch.export merges equal sizes
# diffusers' Upsample2D makes its input contiguous from 64 rows on. A graph knows no memory order, so it holds for more;
# without the bound torch.export would find this out by itself, by tracing everything twice.
MAX_ROWS = 63


def export_network(network: Network, folder: Path, precision: ExportPrecision = "fp32") -> tuple[Path, Path]:
    """Write `folder/NAME.onnx` and `folder/NAME.safetensors` and return both paths.

    The graph takes any number of rows and tokens, any height and width that the network's specs allow.

    Raises:
        CheckpointError: a weight does not fit fp16.
        onnx.checker.ValidationError: the graph is not valid ONNX (a defect of an exporter, not of the input).
        OSError: the files cannot be written.
    """
    program = _traced(network)
    _name_dimensions(program, network)
    model = program.model
    _strip(model)
    if precision == "fp16":
        halve(model.graph, network.name)
    graph, weights = folder / f"{network.name}.onnx", folder / f"{network.name}.safetensors"
    _move_weights(model.graph, weights)
    graph.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    onnx.checker.check_model(str(graph), full_check=True)
    return graph, weights


def halve(graph: ir.Graph, component: str) -> None:
    """Let a component's graph compute in fp16.

    Raises:
        CheckpointError: a weight does not fit fp16.
    """
    try:
        to_half(graph)
    except ValueError as error:
        raise CheckpointError(f"{component}: {error}: export with --precision fp32") from error


def _traced(network: Network) -> torch.onnx.ONNXProgram:
    dims = {name: Dim(name, max=MAX_ROWS) if name == "rows" else Dim(name) for name in _EXAMPLE}
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            network.module,
            tuple(_example(spec) for spec in network.inputs),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=tuple(_dynamic(spec, dims) for spec in network.inputs),
            input_names=[spec.name for spec in network.inputs],
            output_names=[spec.name for spec in network.outputs],
            verbose=False,
        )
    assert program is not None
    return program


def _example(spec: TensorSpec) -> Tensor:
    return torch.ones(resolve_shape(spec.shape, _EXAMPLE), dtype=getattr(torch, spec.dtype))


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


def _name_dimensions(program: torch.onnx.ONNXProgram, network: Network) -> None:
    """Give every free dimension the name that the specs state; torch calls them `s89`, alone and in products."""
    assert program.exported_program is not None
    names: dict[str, str] = {}
    placeholders = {node.name: node for node in program.exported_program.graph.find_nodes(op="placeholder")}
    for name, spec in zip(program.exported_program.graph_signature.user_inputs, network.inputs, strict=True):
        for length, dimension in zip(placeholders[str(name)].meta["val"].shape, spec.shape, strict=True):
            if isinstance(dimension, str):
                (symbol,) = length.node.expr.free_symbols  # 8*s89 for "8*height"
                names[str(symbol)] = split_dimension(dimension)[1]
    for value in _values(program.model.graph):
        if value.shape is not None:
            value.shape = ir.Shape([_named(dimension, names) for dimension in value.shape])
    for value, spec in zip(program.model.graph.outputs, network.outputs, strict=True):
        value.shape = ir.Shape(spec.shape)


def _named(dimension: int | ir.SymbolicDim, names: dict[str, str]) -> int | str | None:
    if isinstance(dimension, int) or dimension.value is None:
        return dimension if isinstance(dimension, int) else None
    return re.sub(r"\bs\d+\b", lambda match: names[match[0]], str(dimension.value))


def _strip(model: ir.Model) -> None:
    """Remove what tells of the machine: each node's stack trace holds absolute paths."""
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


def _move_weights(graph: ir.Graph, path: Path) -> None:
    """Write all tensors but the small ones to a safetensors file, and point the graph at their places inside it."""
    large = {n: v for n, v in sorted(graph.initializers.items()) if v.const_value.nbytes > INLINE_BYTES}
    try:
        save_file({name: np.ascontiguousarray(value.const_value.numpy()) for name, value in large.items()}, path)
    except SafetensorError as error:  # it wraps the system's error: give that back to whoever names the output
        code = re.search(r"os error (\d+)", str(error))
        raise OSError(int(code[1]) if code else 0, str(error)) from error
    path.chmod(0o644)  # safetensors leaves 0600: a service under another user must read a copied bundle
    offsets = _offsets(path)
    for name, value in large.items():
        begin, end = offsets[name]
        value.const_value = ir.ExternalTensor(
            path.name, begin, end - begin, value.dtype, shape=value.const_value.shape, name=name, base_dir=path.parent
        )


def _offsets(path: Path) -> dict[str, tuple[int, int]]:
    """First byte and end of each tensor in a safetensors file, counted from the file's start."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    start = 8 + length
    return {
        name: (start + entry["data_offsets"][0], start + entry["data_offsets"][1])
        for name, entry in header.items()
        if name != "__metadata__"
    }
