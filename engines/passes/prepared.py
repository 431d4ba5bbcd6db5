"""The passes that a build asks for, applied to a graph on disk; the result lies beside, as small as it can be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from .half import HALVES, to_half
from .reading import read_model
from .static import make_static
from .written_out import write_out

WEIGHTS = "weights.bin"
_INLINE_BYTES = 1024  # parsers want shapes and axes in the graph itself


def prepare(graph: Path, target: Path, *, bound: Mapping[str, int] | None, half: str | None, old: bool = False) -> Path:
    """Write `graph` to `target` with its free dimensions `bound`, in the half type ("fp16", "bf16"); its new path.

    None for either leaves that as it is. `old` writes it out in opset 20. With none of them there is nothing to write,
    and the path is that of `graph`.

    Raises:
        ValueError: a weight does not fit the type; it names the weight.
        NotImplementedError: opset 20 has no form of a node; it names the node.
        OSError: it cannot be written.
    """
    if bound is None and half is None and not old:
        return graph
    model = read_model(graph)
    if old:
        write_out(model)
    if bound is not None:
        make_static(model, bound)
    if half is not None:
        to_half(model.graph, HALVES[half])
    ir.save(model, target, external_data=WEIGHTS, size_threshold_bytes=_INLINE_BYTES)
    return target
