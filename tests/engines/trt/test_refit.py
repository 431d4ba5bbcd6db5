"""What may be put into an engine that is there: other weights of the very same graph, if it was built for that."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import EngineError
from latentrt.engines.key import EngineKey, component_key
from latentrt.engines.manifest import FILE_NAME
from latentrt.engines.options import BuildOptions
from latentrt.engines.trt.refit import check_refit

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
