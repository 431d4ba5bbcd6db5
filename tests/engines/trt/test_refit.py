"""What may be put into an engine that is there: other weights of the very same graph, if it was built for that."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from latentrt.engines import onnxruntime_backend
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import CheckFailedError, EngineError
from latentrt.engines.key import EngineKey, component_key
from latentrt.engines.manifest import FILE_NAME
from latentrt.engines.options import BuildOptions
from latentrt.engines.tensorrt_rtx_backend import BACKEND
from latentrt.engines.trt import cuda
from latentrt.engines.trt import engine as trt_engine
from latentrt.engines.trt.engine import TensorRtEngine
from latentrt.engines.trt.log import make_log
from latentrt.engines.trt.refit import check_refit, check_refitted

Relist = Callable[[Path], None]
REFITTABLE = BuildOptions(refittable=True)


def key(bundle: Bundle) -> EngineKey:
    return component_key(
        bundle,
        "unet",
        backend="tensorrt",
        version="11.4",
        device="NVIDIA L4 sm89",
        precision="fp16",
        profile="rows=2",
        flags=("refittable",),
    )


def other(bundle: Bundle, place: Path, file: str) -> Bundle:
    """The bundle with another hash for one file."""
    root = Path(shutil.copytree(bundle.root, place))
    manifest = json.loads((root / FILE_NAME).read_bytes())
    manifest["files"][file]["sha256"] = hashlib.sha256(b"other").hexdigest()
    (root / FILE_NAME).write_text(json.dumps(manifest))
    return Bundle.open(root)


def test_other_weights_change_the_weights_of_the_key_alone(opened: Bundle, tmp_path: Path) -> None:
    [weights] = opened.component("unet").weights
    tuned = other(opened, tmp_path / "tuned", weights)
    [difference] = key(opened).differences(check_refit(key(opened), REFITTABLE, tuned))
    assert difference.startswith("weights: ")


def test_another_graph_is_refused(opened: Bundle, tmp_path: Path) -> None:
    changed = other(opened, tmp_path / "changed", "onnx/unet.onnx")
    with pytest.raises(EngineError, match="is another network than this engine's"):
        check_refit(key(opened), REFITTABLE, changed)


def test_an_engine_that_was_not_built_for_it_is_refused(opened: Bundle) -> None:
    with pytest.raises(EngineError, match="takes no other weights: build it --refittable"):
        check_refit(key(opened), BuildOptions(), opened)


def tuned(bundle: Bundle, place: Path, relist: Relist) -> Bundle:
    """The bundle with other recorded answers of the UNet: those of other weights."""
    root = Path(shutil.copytree(bundle.root, place))
    golden = root / "golden/unet.safetensors"
    changed = {name: np.ascontiguousarray(array[..., ::-1]) for name, array in load_file(golden).items()}
    save_file(changed, golden)
    relist(root)
    return Bundle.open(root)


def test_an_engine_with_new_weights_is_held_against_pytorch(opened: Bundle, tmp_path: Path, relist: Relist) -> None:
    """ONNX Runtime's engine stands for one that was refitted: the one bundle's weights are right, the other's not."""
    other_weights = tuned(opened, tmp_path / "tuned", relist)
    with onnxruntime_backend.BACKEND.open(opened, "unet", None) as engine:
        check_refitted(engine, opened, REFITTABLE)
        with pytest.raises(CheckFailedError, match=r"not what PyTorch answered with the weights of .*tuned: "):
            check_refitted(engine, other_weights, REFITTABLE)


def test_a_refit_that_fails_closes_the_engine(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only a GPU gives is left out: the plan, and the library's refitter."""
    done: list[str] = []

    def half_done(*_: Any) -> None:
        done.append("refitted")
        raise EngineError("a weight does not fit")

    monkeypatch.setattr(cuda, "use", lambda device: None)
    monkeypatch.setattr(trt_engine, "refit", half_done)
    engine = TensorRtEngine.__new__(TensorRtEngine)
    engine.name, engine.key, engine.profiles, engine._options, engine._device = "unet", key(opened), (), REFITTABLE, 0
    engine._family, engine._engine, engine._log = BACKEND.family, None, make_log(BACKEND.family.module)
    engine._closed, engine._resources, engine.inputs = False, ExitStack(), ()
    recorded: Any = SimpleNamespace(close=lambda: done.append("recorded runs dropped"))
    engine._contexts = {0: recorded}
    with pytest.raises(EngineError, match="a weight does not fit"):
        engine.refit(opened)
    assert done == ["recorded runs dropped", "refitted"]
    with pytest.raises(EngineError, match="the unet engine is closed"):
        engine.run({})
