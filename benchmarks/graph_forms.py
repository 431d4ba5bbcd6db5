"""Whether other forms of a block are faster on the CPU: projections merged, group normalisation written out.

`python -m latentrt.benchmarks.graph_forms` writes `results/graph-forms.json`. Blocks have random weights, and the
shapes of Stable Diffusion 1.5's UNet at 512x512, two rows.
"""

from __future__ import annotations

import importlib
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto
from onnx import helper as oh

from latentrt.engines.passes.written_out import write_out

from .machine import write_result

ROWS, TOKENS, TEXT, HEADS, GROUPS, ROUNDS = 2, 77, 768, 8, 32, 7
LEVELS = {320: 64, 640: 32, 1280: 16}  # channels: latents on a side
PROTOCOL = f"""One block alone, {ROWS} rows, random weights: self-attention's and cross-attention's projections, heads
and attention, with a product each (A) and merged with a Split (B); GroupNormalization and SiLU as exported (A) and with
InstanceNormalization, as in opset 20 (B). fp32, {ROUNDS} rounds of A B A B after two that do not count. B / A: of the
medians, and the quartiles of the rounds' own. The load average is of
the last five minutes; above 1 it includes other programs, or the threads of this one."""
Run = Callable[[], object]


def main() -> None:
    """Time every pair in both engines; write the result."""
    blocks: dict[str, Any] = {}
    for name, (plain, other) in pairs().items():
        blocks[name] = {
            "onnxruntime": compared(in_onnxruntime(plain), in_onnxruntime(other)),
            "openvino": compared(in_openvino(plain), in_openvino(other)),
        }
        print(name, blocks[name], flush=True)
    figures = {"blocks": blocks, "load average": round(os.getloadavg()[1], 1)}
    write_result("graph-forms", figures, " ".join(PROTOCOL.split()))


def pairs() -> dict[str, tuple[onnx.ModelProto, onnx.ModelProto]]:
    """Models of each block in both forms, by name."""
    found = {}
    for channels, side in LEVELS.items():
        where = f"{channels} channels, {side}x{side}"
        found[f"self-attention, {where}"] = (
            attention(channels, side**2, crossed=False, merged=False),
            attention(channels, side**2, crossed=False, merged=True),
        )
        found[f"cross-attention, {where}"] = (
            attention(channels, side**2, crossed=True, merged=False),
            attention(channels, side**2, crossed=True, merged=True),
        )
        normal = normalisation(channels, side)
        found[f"group norm and SiLU, {where}"] = (normal, _written_out(normal))
    return found


def attention(channels: int, length: int, *, crossed: bool, merged: bool) -> onnx.ModelProto:
    """From normalised tokens (rows, length, channels) to what the heads answer, of the same shape."""
    rng = np.random.default_rng(0)
    width = {"q": channels, "k": TEXT if crossed else channels, "v": TEXT if crossed else channels}
    weights = {
        name: np.asarray(rng.standard_normal((size, channels)) / size**0.5, np.float32) for name, size in width.items()
    }
    together = (("k", "v") if crossed else ("q", "k", "v")) if merged else ()
    constants: dict[str, NDArray[Any]] = {f"{name}.weight": weights[name] for name in weights if name not in together}
    nodes = [
        oh.make_node("MatMul", [_source(name, crossed), f"{name}.weight"], [f"{name}.flat"])
        for name in weights
        if name not in together
    ]
    if together:
        constants["merged"] = np.concatenate([weights[name] for name in together], axis=1)
        nodes.append(oh.make_node("MatMul", [_source("k", crossed), "merged"], ["all"]))
        flat = [f"{name}.flat" for name in together]
        nodes.append(oh.make_node("Split", ["all"], flat, axis=-1, num_outputs=len(together)))
    constants["heads"] = np.array([0, 0, HEADS, channels // HEADS])
    constants["joined"] = np.array([0, 0, channels])
    for name in weights:
        nodes.append(oh.make_node("Reshape", [f"{name}.flat", "heads"], [f"{name}.split"]))
        nodes.append(oh.make_node("Transpose", [f"{name}.split"], [f"{name}.heads"], perm=[0, 2, 1, 3]))
    nodes.append(oh.make_node("Attention", ["q.heads", "k.heads", "v.heads"], ["answer"]))
    nodes.append(oh.make_node("Transpose", ["answer"], ["turned"], perm=[0, 2, 1, 3]))
    nodes.append(oh.make_node("Reshape", ["turned", "joined"], ["y"]))
    inputs = {"x": (ROWS, length, channels)} | ({"text": (ROWS, TOKENS, TEXT)} if crossed else {})
    return _model(nodes, inputs, (ROWS, length, channels), constants)


def _source(name: str, crossed: bool) -> str:
    return "text" if crossed and name != "q" else "x"


def normalisation(channels: int, side: int) -> onnx.ModelProto:
    """GroupNormalization, then x * sigmoid(x)."""
    nodes = [
        oh.make_node("GroupNormalization", ["x", "scale", "bias"], ["normal"], num_groups=GROUPS, epsilon=1e-5),
        oh.make_node("Sigmoid", ["normal"], ["gate"]),
        oh.make_node("Mul", ["normal", "gate"], ["y"]),
    ]
    constants = {"scale": np.ones(channels, np.float32), "bias": np.zeros(channels, np.float32)}
    shape = (ROWS, channels, side, side)
    return _model(nodes, {"x": shape}, shape, constants)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, ...]],
    output: tuple[int, ...],
    constants: Mapping[str, NDArray[Any]],
) -> onnx.ModelProto:
    graph = oh.make_graph(
        nodes,
        "block",
        [oh.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = oh.make_model(graph, ir_version=10, opset_imports=[oh.make_opsetid("", 23)])
    return onnx.shape_inference.infer_shapes(model)


def _written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    rewritten = ir.from_proto(model)
    write_out(rewritten)
    proto: onnx.ModelProto = ir.to_proto(rewritten)
    return proto


def feeds(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """Normal numbers for every input."""
    rng = np.random.default_rng(1)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def in_onnxruntime(model: onnx.ModelProto) -> Run:
    """A call of the model."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = feeds(model)
    return lambda: session.run(None, given)


def in_openvino(model: onnx.ModelProto) -> Run:
    """A call of the model, for latency and in fp32 as the engine does it."""
    importlib.import_module("latentrt.engines.openvino_backend")  # which keeps the import from reporting itself
    ov = importlib.import_module("openvino")
    hint = ov.properties.hint
    core = ov.Core()
    settings = {hint.inference_precision: ov.Type.f32, hint.performance_mode: hint.PerformanceMode.LATENCY}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    request, given = compiled.create_infer_request(), feeds(model)
    return lambda: request.infer(given)


def compared(plain: Run, other: Run) -> dict[str, float | list[float]]:
    """Milliseconds of each, in turn, and their ratio with its spread."""
    seconds = [(_seconds(plain), _seconds(other)) for _ in range(ROUNDS + 2)][2:]
    ratios = [second / first for first, second in seconds]
    medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "A, ms": round(1e3 * medians[0], 2),
        "B, ms": round(1e3 * medians[1], 2),
        "B / A": round(medians[1] / medians[0], 3),
        "quartiles": [round(quartiles[0], 3), round(quartiles[2], 3)],
    }


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
