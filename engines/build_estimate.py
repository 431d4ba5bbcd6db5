"""What a build takes before it starts: room on the disk for the engine, and memory at its greatest.

The figures of a library were measured with builds of the demo model and, but for onnxruntime-cuda and tensorrt, of the
UNet and decoder of SD 1.5's true size (`benchmarks/memory.py`); tensorrt is taken for what tensorrt-rtx is.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from .bundle import Bundle
from .calls import call_shapes
from .errors import EngineError, OutputError
from .footprint import MB, Footprint, appetite, component_sets, weight_bytes
from .graph import read_nodes
from .key import EngineKey
from .manifest import ITEM_BYTES
from .memory_words import told


@dataclass(frozen=True, kw_only=True)
class _Cost:
    """Bytes of a build: on disk for a byte of weights and for a node of the graph; the same in memory, and at all."""

    disk: float
    disk_node: int
    memory: float
    memory_node: int
    process: int
    keeps_fp32: bool = False  # whether the files hold fp32 whatever the engine computes in
    scratch: float = 0.0  # on disk for a byte of the bundle's weights, while it builds


_RTX = _Cost(disk=1.0, disk_node=25_000, memory=2.5, memory_node=250_000, process=420 * MB, scratch=1.0)
_COSTS = {
    "onnxruntime": _Cost(disk=1.0, disk_node=600, memory=1.1, memory_node=40_000, process=70 * MB),
    "openvino": _Cost(disk=1.0, disk_node=2_000, memory=2.4, memory_node=150_000, process=110 * MB, keeps_fp32=True),
    "onnxruntime-cuda": _Cost(disk=1.0, disk_node=400, memory=1.6, memory_node=0, process=115 * MB),
    "tensorrt": _RTX,
    "tensorrt-rtx": _RTX,
}


@dataclass(frozen=True)
class BuildEstimate:
    """Bytes: of the engine on disk, of the disk while it is built, and of memory at its greatest."""

    disk: int
    room: int
    memory: int


def estimate(bundle: Bundle, key: EngineKey) -> BuildEstimate:
    """What the build of an engine takes, its check included where it runs on this machine's CPU.

    Raises:
        BundleError: the graph is damaged, or was left out of a packed bundle.
    """
    component, cost = key.component, _COSTS[key.backend]
    stated = bundle.component(component)
    weights = weight_bytes(bundle, component)
    item = ITEM_BYTES[key.precision] / ITEM_BYTES[stated.precision]
    graph = bundle.file(stated.graph) if stated.graph is not None else bundle.graph(component)
    nodes = len(read_nodes(graph.read_bytes(), str(graph)))
    disk = cost.disk * weights * (1.0 if cost.keeps_fp32 else item) + cost.disk_node * nodes
    memory = cost.process + cost.memory * weights + cost.memory_node * nodes
    memory = max(memory, cost.process + _checked(bundle, key, weights * item, disk))
    return BuildEstimate(int(disk), int(disk + cost.scratch * weights * item), int(memory))


def _checked(bundle: Bundle, key: EngineKey, weights: float, files: float) -> float:
    """Bytes of memory of an engine that is checked: a call at the model's own size."""
    takes, own = appetite(key.backend), bundle.manifest.model.default_size
    if takes.gpu:
        return 0
    try:
        call = Footprint(0, 0, takes, component_sets(bundle, key.component), item=1.0)
    except EngineError:  # its graph does not state its shapes
        return 0
    held = takes.weights * weights + takes.files * files
    return held + call.working(call_shapes(bundle, key.component, (own, own)))


def check_room(folder: Path, needed: int) -> None:
    """Check that the disk of a folder, which may not be there yet, has room for so many bytes.

    Raises:
        OutputError: it has not.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise OutputError(
            f"the engines need about {told(needed)} in {folder}, and its disk has {told(free)} left: free some, or "
            "keep them elsewhere with --engine-dir"
        )
