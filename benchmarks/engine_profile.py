"""Where the time of one call goes, by type of operation, as each engine library counts it itself.

`python -m latentrt.benchmarks.engine_profile CONTESTANT BUNDLE` prints milliseconds by type as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from latentrt.engines import store
from latentrt.engines.bundle import Bundle
from latentrt.engines.manifest import UNET
from latentrt.engines.tensor import Feeds

from .engine_worker import engine_backend
from .unet_bundle import open_unet_bundle, timed_case

_SHARE = 0.005  # of the whole: types below it are added up as "other"


def main() -> None:
    """Profile the contestant that the arguments name."""
    name, bundle = sys.argv[1], open_unet_bundle(Path(sys.argv[2]))
    profile = _onnxruntime if name.startswith("onnxruntime") else _openvino
    print(json.dumps(_by_type(profile(name, bundle, timed_case(bundle).inputs))))


def _onnxruntime(name: str, bundle: Bundle, feeds: Feeds) -> Iterable[tuple[str, float]]:
    """(type, milliseconds) of each node in the second call."""
    import onnxruntime as ort  # noqa: PLC0415 - one library a process

    from latentrt.engines.onnxruntime_backend import GRAPH, as_written  # noqa: PLC0415

    folder = store.find(engine_backend(name), bundle, UNET)
    assert folder is not None
    with tempfile.TemporaryDirectory() as place:
        options = as_written()
        options.enable_profiling = True
        options.profile_file_prefix = f"{place}/profile"
        session = ort.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
        for _ in range(2):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    for event in nodes[len(nodes) // 2 :]:
        yield event["args"]["op_name"], event["dur"] / 1e3


def _openvino(name: str, bundle: Bundle, feeds: Feeds) -> Iterable[tuple[str, float]]:
    """(type, milliseconds) of each node in the second call, compiled anew to count."""
    from latentrt.engines.openvino_backend import OpenVinoBackend  # noqa: PLC0415, I001 - it imports openvino first
    import openvino  # noqa: PLC0415

    backend = engine_backend(name)
    assert isinstance(backend, OpenVinoBackend)
    config = backend.config() | {"PERF_COUNT": True}
    request = openvino.Core().compile_model(bundle.graph(UNET), "CPU", config).create_infer_request()
    for _ in range(2):
        request.infer(dict(feeds))
    for node in request.profiling_info:
        yield node.node_type, node.real_time.total_seconds() * 1e3


def _by_type(nodes: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Milliseconds by type, the longest first, and the small ones together."""
    sums: dict[str, float] = defaultdict(float)
    for kind, milliseconds in nodes:
        sums[kind] += milliseconds
    total = sum(sums.values())
    large = {kind: round(spent, 1) for kind, spent in sums.items() if spent >= _SHARE * total}
    ordered = dict(sorted(large.items(), key=lambda item: -item[1]))
    return ordered | {"other": round(total - sum(large.values()), 1)}


if __name__ == "__main__":
    main()
