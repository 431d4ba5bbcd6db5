"""A network's trace and its weights -> an ONNX graph, the weights beside it in a safetensors file.

The same network gives the same bytes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript.optimizer import optimize
from safetensors import SafetensorError
from safetensors.numpy import save_file

from latentrt.engines.errors import CheckpointError
from latentrt.engines.manifest import ExportPrecision
from latentrt.engines.passes.half import to_half

from .trace import named_tensors, strip
from .wrappers import Network

INLINE_BYTES = 1024  # smaller tensors (biases, shapes, scales) stay in the graph, where parsers want shapes to be


def write_graph(
    network: Network, traced: bytes, folder: Path, precision: ExportPrecision = "fp32"
) -> tuple[Path, Path]:
    """Write `folder/NAME.onnx` and `folder/NAME.safetensors` and return both paths; `traced` is its outline's `trace`.

    Raises:
        CheckpointError: a weight does not fit fp16.
        onnx.checker.ValidationError: the graph is not valid ONNX (a defect of an exporter, not of the input).
        OSError: the files cannot be written.
    """
    model = _with_weights(traced, network)
    optimize(model)
    strip(model)
    if precision == "fp16":
        halve(model.graph, network.name)
    graph, weights = folder / f"{network.name}.onnx", folder / f"{network.name}.safetensors"
    _move_weights(model.graph, weights)
    graph.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    onnx.checker.check_model(str(graph), full_check=True)
    return graph, weights


def _with_weights(traced: bytes, network: Network) -> ir.Model:
    model = ir.from_proto(onnx.ModelProto.FromString(traced))
    for name, tensor in named_tensors(network):
        if name in model.graph.initializers:
            model.graph.initializers[name].const_value = ir.tensor(tensor.numpy(), name=name)
    return model


def halve(graph: ir.Graph, component: str) -> None:
    """Let a component's graph compute in fp16.

    Raises:
        CheckpointError: a weight does not fit fp16.
    """
    try:
        to_half(graph)
    except ValueError as error:
        raise CheckpointError(f"{component}: {error}: export with --precision fp32") from error


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
