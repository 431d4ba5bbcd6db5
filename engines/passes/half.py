"""fp32 graph -> fp16 or bf16: weights and activations halve; inputs, outputs and a few named places stay fp32."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import onnx_ir as ir

FLOAT, HALF, BFLOAT = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16
HALVES = {"fp16": HALF, "bf16": BFLOAT}  # by the names of engine precisions

# The arguments of the timestep's sinusoids go up to 1000, where neighbouring fp16 numbers are half a radian apart, and
# neighbouring bf16 numbers four.
# diffusers computes them in fp32, too.
SINUSOIDS = frozenset({"Sin", "Cos"})

# Inputs that ONNX wants in float32 whatever the data's type: the region and the scales of Resize.
_FLOAT_INPUTS = frozenset({("Resize", 1), ("Resize", 2)})


def to_half(graph: ir.Graph, half: ir.DataType = HALF) -> None:
    """Rewrite a graph of fp32 tensors, in place, to compute in fp16 or bf16.

    A Cast stands wherever types meet. The graph's own inputs and outputs stay float32, so that callers need not know.
    Normalisations read and write the half type and compute in fp32, as ONNX's `stash_type` has it by default; the
    softmax inside `Attention` is the engine's to accumulate.

    Raises:
        ValueError: a weight does not fit fp16; it names the weight.
    """
    exact = _behind_sinusoids(graph)
    for node in graph:
        for output in node.outputs:
            if output.dtype == FLOAT and node not in exact:
                output.dtype = half
    for value in graph.initializers.values():
        if value.dtype == FLOAT and all(_wanted(node, index, exact, half) == half for node, index in value.uses()):
            _halve(value, half)
    _cast_edges(graph, exact, half)
    _cast_outputs(graph, half)
    graph.sort()


def _behind_sinusoids(graph: ir.Graph) -> set[ir.Node]:
    """Sine and cosine, and the nodes that compute their arguments."""
    exact: set[ir.Node] = set()
    waiting = [node for node in graph if node.op_type in SINUSOIDS]
    while waiting:
        node = waiting.pop()
        exact.add(node)
        producers = (value.producer() for value in node.inputs if value is not None)
        waiting += [producer for producer in producers if producer is not None and producer not in exact]
    return exact


def _wanted(node: ir.Node, index: int, exact: Set[ir.Node], half: ir.DataType) -> ir.DataType:
    """The type that a node takes its floating-point input `index` in."""
    return FLOAT if node in exact or (node.op_type, index) in _FLOAT_INPUTS else half


def _halve(value: ir.Value, half: ir.DataType) -> None:
    assert value.const_value is not None
    exact = value.const_value.numpy()
    with np.errstate(over="ignore"):
        halved = exact.astype(half.numpy())
    if not np.array_equal(np.isfinite(exact), np.isfinite(halved)):
        raise ValueError(f"{value.name} holds {np.abs(exact).max():.4g}, and fp16 ends at 65504")
    value.const_value = ir.Tensor(halved, half, name=value.name)
    value.dtype = half


def _cast_edges(graph: ir.Graph, exact: Set[ir.Node], half: ir.DataType) -> None:
    """Give every use of a value the type that its node wants: one Cast for all uses of a type."""
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in tuple(graph):
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in (FLOAT, half):
                continue
            wanted = _wanted(node, index, exact, half)
            if value.dtype != wanted:
                if (value, wanted) not in casts:
                    casts[value, wanted] = _cast(graph, value, wanted, f"{value.name}.{wanted.name.lower()}")
                node.replace_input_with(index, casts[value, wanted])


def _cast_outputs(graph: ir.Graph, half: ir.DataType) -> None:
    for index, value in enumerate(graph.outputs):
        if value.dtype == half:
            name, value.name = str(value.name), f"{value.name}.{half.name.lower()}"
            graph.outputs[index] = _cast(graph, value, FLOAT, name)


def _cast(graph: ir.Graph, value: ir.Value, wanted: ir.DataType, name: str) -> ir.Value:
    output = ir.Value(name=name, shape=value.shape, type=ir.TensorType(wanted))
    graph.append(ir.node("Cast", [value], {"to": int(wanted)}, outputs=[output], name=f"cast.{name}"))
    return output
