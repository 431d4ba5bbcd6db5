"""ONNX Runtime answers as onnx's own reference evaluator, from the bundle's graph and from a built engine alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import BundleError, EngineError
from latentrt.engines.key import cpu
from latentrt.engines.onnxruntime_backend import BACKEND, GRAPH, WEIGHTS

MakeFeeds = Callable[[str, int, int, int], dict[str, np.ndarray]]
Relist = Callable[[Path], None]
Edit = Callable[..., None]
COMPONENTS = ["text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8"]


@pytest.mark.parametrize("built", [False, True], ids=["as it is", "built"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_results_equal_the_reference(
    tiny_original: Path, tmp_path: Path, feeds_for: MakeFeeds, component: str, built: bool
) -> None:
    bundle = Bundle.open(tiny_original)
    if built:
        BACKEND.build(bundle, component, tmp_path)
    reference = ReferenceEvaluator(str(bundle.graph(component)))
    with BACKEND.open(bundle, component, tmp_path if built else None) as engine:
        for sizes in ((1, 1, 1), (2, 3, 1), (5, 2, 2)):  # rows, height and width are free
            feeds = feeds_for(component, *sizes)
            expected = reference.run(None, feeds)
            for spec, array in zip(engine.outputs, expected, strict=True):
                # sums of at most 36 products of unit size, in another order: a few float32 roundings of 1e-7
                np.testing.assert_allclose(engine.run(feeds)[spec.name], array, rtol=1e-5, atol=1e-5)


def test_the_key_names_what_the_optimiser_depends_on(opened: Bundle) -> None:
    key = BACKEND.key(opened, "unet")
    assert (key.backend, key.backend_version, key.device) == ("onnxruntime", onnxruntime.__version__, cpu())


def test_a_built_engine_needs_nothing_of_the_bundle(tiny_bundle: Path, tmp_path: Path, feeds_for: MakeFeeds) -> None:
    bundle, folder = Bundle.open(tiny_bundle), tmp_path / "engine"
    folder.mkdir()
    BACKEND.build(bundle, "text_encoder", folder)
    assert sorted(file.name for file in folder.iterdir()) == sorted([GRAPH, WEIGHTS])
    feeds = feeds_for("text_encoder", 1, 1, 1)
    with BACKEND.open(bundle, "text_encoder", None) as engine:
        expected = engine.run(feeds)
    for path in bundle.component("text_encoder").weights:
        (tiny_bundle / path).unlink()
    with BACKEND.open(bundle, "text_encoder", folder) as engine:
        np.testing.assert_array_equal(engine.run(feeds)["last_hidden_state"], expected["last_hidden_state"])


def test_damage_is_found_before_the_library_reads_a_byte(tiny_bundle: Path) -> None:
    (tiny_bundle / "onnx/unet.onnx").write_bytes(bytes((tiny_bundle / "onnx/unet.onnx").stat().st_size))
    with pytest.raises(BundleError, match="is altered"):
        BACKEND.open(Bundle.open(tiny_bundle), "unet", None)


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Nonsense"


def without_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "x"


@pytest.mark.parametrize("change", [unknown_operator, without_output])
def test_a_graph_that_cannot_be_loaded_is_an_engine_error(
    tiny_bundle: Path, relist: Relist, change: Callable[[onnx.ModelProto], None]
) -> None:
    graph = tiny_bundle / "onnx/unet.onnx"
    model = onnx.load(graph, load_external_data=False)
    change(model)
    graph.write_bytes(model.SerializeToString())
    relist(tiny_bundle)
    with pytest.raises(EngineError, match="ONNX Runtime cannot load unet from ") as caught:
        BACKEND.open(Bundle.open(tiny_bundle), "unet", None)
    assert "\n" not in str(caught.value)


def test_a_run_that_fails_is_an_engine_error(tiny_bundle: Path, edit: Edit, feeds_for: MakeFeeds) -> None:
    """The manifest promises a width of 9, the graph takes 8: the feeds fit the one and not the other."""
    shape = ("components", "unet", "inputs", 2, "shape")
    edit(tiny_bundle, *shape, to=["rows", 77, 9])
    with BACKEND.open(Bundle.open(tiny_bundle), "unet", None) as engine:
        feeds = feeds_for("unet", 1, 1, 1) | {"encoder_hidden_states": np.zeros((1, 77, 9), np.float32)}
        with pytest.raises(EngineError, match="ONNX Runtime failed in unet: ") as caught:
            engine.run(feeds)
        assert "\n" not in str(caught.value)
