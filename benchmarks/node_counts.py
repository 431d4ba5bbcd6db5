"""Nodes of each graph by type, as exported and after each pass that a build may run.

`python -m latentrt.benchmarks.node_counts NAME=BUNDLE ...` writes `results/node-counts.json`. Weights are not read: a
bundle's `onnx/*.onnx` is enough.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from latentrt.engines.passes.for_onnxruntime import rewrite
from latentrt.engines.passes.half import HALVES, to_half
from latentrt.engines.passes.static import make_static
from latentrt.engines.passes.written_out import write_out

from .machine import write_result

SHAPES = {
    "unet": {"rows": 2, "height": 8, "width": 8, "tokens": 77},
    "vae_decoder.kl-f8": {"rows": 1, "height": 64, "width": 64},
    "text_encoder": {"rows": 2},
}
STAGES: dict[str, tuple[str, ...]] = {
    "as exported": (),
    "static": ("static",),
    "static, fp16": ("static", "fp16"),
    "static, bf16": ("static", "bf16"),
    "for onnxruntime": ("for onnxruntime",),
    "opset 20": ("opset 20",),
    "opset 20, static": ("opset 20", "static"),
    "opset 20, static, fp16": ("opset 20", "static", "fp16"),
}
PROTOCOL = """Exact counts of the nodes of a component's ONNX graph, after the passes of engines/passes that a column
names, in the order in which a build runs them: 2 rows at 512x512 (the demo model: the same dimensions). demo: the model
in this repository; full size: Stable Diffusion 1.5's shapes, random weights."""

Counts = dict[str, int]


def main() -> None:
    """Count every component of the bundles that are named; write the result."""
    figures = {}
    for word in sys.argv[1:]:
        name, _, bundle = word.partition("=")
        figures[name] = {component: counts(Path(bundle), component) for component in SHAPES}
    print(write_result("node-counts", figures, " ".join(PROTOCOL.split())).read_text(encoding="utf-8"))


def counts(bundle: Path, component: str) -> dict[str, Counts]:
    """Nodes by type, the most frequent first, at each stage."""
    graph = bundle / "onnx" / f"{component}.onnx"
    return {stage: counted(graph, passes, SHAPES[component]) for stage, passes in STAGES.items()}


def counted(graph: Path, passes: tuple[str, ...], bound: Mapping[str, int]) -> Counts:
    """Nodes by type after these passes."""
    model = without_weights(graph)
    for name in passes:
        if name == "static":
            make_static(model, bound)
        elif name == "for onnxruntime":
            rewrite(model)
        elif name == "opset 20":
            write_out(model)
        else:
            to_half(model.graph, HALVES[name])
    return dict(Counter(node.op_type for node in model.graph).most_common())


def without_weights(graph: Path) -> ir.Model:
    """The model with a zero in place of each number that lies in another file: passes look at the types and shapes."""
    model = ir.from_proto(onnx.load(graph, load_external_data=False))
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            zeros = np.broadcast_to(tensor.dtype.numpy().type(0), tensor.shape.numpy())
            value.const_value = ir.Tensor(zeros, tensor.dtype, name=tensor.name)
    return model


if __name__ == "__main__":
    main()
