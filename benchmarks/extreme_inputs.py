"""Whether fp16 graphs overflow: every intermediate tensor of every component, on random and extreme inputs.

`python -m latentrt.benchmarks.extreme_inputs BUNDLE` writes `results/extreme-inputs.json`.

ONNX Runtime's CPU has few fp16 kernels: it computes in fp32 between casts, and may drop the casts between two such
nodes, so that an answer says little. Here each tensor of the graph is one of its outputs. As an output it is rounded to
fp16, where whatever is beyond 65504 is Inf.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from latentrt.engines.bundle import Bundle
from latentrt.engines.onnxruntime_backend import as_written
from latentrt.engines.passes.half import HALF, to_half
from latentrt.engines.passes.reading import read_model
from latentrt.engines.passes.written_out import write_out
from latentrt.engines.tensor import Feeds, TensorSpec, resolve_shape

from .machine import write_result

INPUTS, ROWS = 1000, 10  # of one component, and of one call
SIDE = 2  # of the components' least sizes: a checkerboard has more than one field at every level but the deepest
FORMS = {"fp16": False, "fp16, opset 20": True}  # whether attention is written out, where its scores are tensors, too
LATENTS = (0.0, 1e-3, 1.0, 14.6, 157.0)  # 14.6: sigma_max of Stable Diffusion 1.x; 157: of its zero-terminal-SNR kin
STATES = (0.0, 1.0, 30.0, 100.0)  # CLIP's last states end in a LayerNorm: 1 on average, about 30 in its largest channel
PIXELS = (0.0, 1e-3, 1.0, 10.0)  # pictures are -1 to 1
EMBEDS = (0.0, 0.01, 1.0, 10.0)  # CLIP's embeddings are about 0.01
PROTOCOL = f"""{INPUTS} inputs of each component, seeded, {ROWS} a call, at twice the least size: normal, constant, and
checkerboards, of scales {LATENTS} (latents), {STATES} (the text's states), {PIXELS} (pictures), {EMBEDS} (the text's
embeddings); timesteps 0 to 999, whole and fractional. The graph as engines/passes/half.py makes it, and the same
written out in opset 20. Each of its fp16 tensors is an output of it, rounded to fp16, and searched for NaN and Inf;
those that a mask fills with -Inf on purpose are left out. Run in ONNX Runtime on the CPU, no optimiser. The demo
model."""


@dataclass
class Found:
    """What the tensors of a component held."""

    inputs: int = 0
    overflowed: dict[str, float] = field(default_factory=dict)  # tensors with NaN or Inf, in which share of the inputs
    largest: tuple[float, str] = (0.0, "")  # |x|, and the node that gave it


def main() -> None:
    """Run every component in both forms; write the result."""
    bundle = Bundle.open(Path(sys.argv[1]))
    figures: dict[str, Any] = {}
    for component in bundle.manifest.components:
        figures[component] = {form: _figures(search(bundle, component, INPUTS, old=old)) for form, old in FORMS.items()}
        print(component, figures[component], flush=True)
    write_result("extreme-inputs", figures, " ".join(PROTOCOL.split()))


def _figures(found: Found) -> dict[str, Any]:
    size, node = found.largest
    return {
        "inputs": found.inputs,
        "tensors with NaN or Inf": found.overflowed,
        "largest magnitude": float(f"{size:.4g}"),
        "given by": node,
    }


def search(bundle: Bundle, component: str, count: int, *, old: bool) -> Found:
    """Run `count` inputs through the component's fp16 graph, attention written out or not."""
    model = read_model(bundle.graph(component))
    if old:
        write_out(model)
    to_half(model.graph)
    return search_model(model, bundle.component(component).inputs, count)


def search_model(model: ir.Model, inputs: tuple[TensorSpec, ...], count: int) -> Found:
    """Run `count` inputs through a model and look at all its fp16 tensors, which become outputs of it."""
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        session, givers = _session(model, Path(folder))
        names = list(givers)
        for feeds in batches(inputs, count):
            answers = dict(zip(names, session.run(names, dict(feeds)), strict=True))
            _look(found, answers, givers)
    found.overflowed = {name: hits / found.inputs for name, hits in found.overflowed.items()}
    return found


def _look(found: Found, answers: dict[str, NDArray[Any]], givers: dict[str, str]) -> None:
    rows = 0
    for name, array in answers.items():
        rows = max(rows, len(array))
        size = float(np.abs(array).max(initial=0))
        if not np.isfinite(size):
            bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
            found.overflowed[name] = found.overflowed.get(name, 0) + int(bad.sum())
        elif size > found.largest[0]:
            found.largest = (size, givers[name])
    found.inputs += rows


def _session(model: ir.Model, folder: Path) -> tuple[ort.InferenceSession, dict[str, str]]:
    """A session with every fp16 tensor as an output, and the operator that gives each."""
    masked = _masked(model.graph)
    values = [value for node in model.graph for value in node.outputs if value.dtype == HALF and value not in masked]
    model.graph.outputs.extend(value for value in values if not value.is_graph_output())
    ir.save(model, folder / "graph.onnx", external_data="weights.bin", size_threshold_bytes=1024)
    session = ort.InferenceSession(folder / "graph.onnx", as_written(), providers=["CPUExecutionProvider"])
    return session, {str(value.name): value.producer().op_type for value in values}


def _masked(graph: ir.Graph) -> set[ir.Value]:
    """What holds -Inf on purpose: from a mask up to the softmax that takes it."""
    found = {
        value
        for value in graph.initializers.values()
        if value.const_value.dtype.is_floating_point() and np.isinf(value.const_value.numpy()).any()
    }
    for node in graph:
        if node.op_type not in {"Softmax", "Attention"} and any(value in found for value in node.inputs):
            found.update(node.outputs)
    return found


def batches(inputs: tuple[TensorSpec, ...], count: int) -> Iterator[Feeds]:
    """Seeded feeds of `ROWS` rows each, `count` rows in all."""
    rng = np.random.default_rng(0)
    for _ in range(0, count, ROWS):
        yield {spec.name: np.stack([_drawn(spec, rng) for _ in range(ROWS)]) for spec in inputs}


def _drawn(spec: TensorSpec, rng: np.random.Generator) -> NDArray[np.float32]:
    """One row of an input: a kind and a scale by chance."""
    if spec.name == "timestep":
        return np.array(rng.choice([0.0, 999.0, float(rng.integers(1000)), rng.uniform(0, 999)]), np.float32)
    shape = resolve_shape(spec.shape, {"rows": 1, "height": SIDE, "width": SIDE, "tokens": 77})[1:]
    scale = rng.choice(_scales(spec, shape))
    kind = rng.choice(["normal", "normal", "constant", "checkerboard"])
    if kind == "normal":
        return np.asarray(scale * rng.standard_normal(shape), np.float32)
    if kind == "constant":
        return np.full(shape, scale * rng.choice([-1, 1]), np.float32)
    return np.asarray(scale * (np.indices(shape).sum(axis=0) % 2 * 2 - 1), np.float32)


def _scales(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[float, ...]:
    if len(shape) == 3:
        return PIXELS if shape[0] == 3 else LATENTS
    return EMBEDS if spec.name == "inputs_embeds" else STATES


if __name__ == "__main__":
    main()
