"""Backends by name, and an engine's promises that hold for all of them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latentrt.engines import backend as backends
from latentrt.engines.backend import DEFAULT, backend_names, get_backend
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import BundleError, EngineError, InputError

MakeFeeds = Callable[[str, int, int, int], dict[str, np.ndarray]]
COMPONENTS = ["text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8"]


def test_every_name_gives_a_backend_of_this_name() -> None:
    # "fake" opens too, but draws nothing that anyone would ask for
    assert set(backend_names()) == {"onnxruntime", "onnxruntime-cuda", "openvino", "tensorrt", "tensorrt-rtx"}
    assert DEFAULT in backend_names()
    for name in ("onnxruntime", "openvino", "tensorrt-rtx"):
        assert get_backend(name).name == name


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_tensorrt_says_what_to_install() -> None:
    with pytest.raises(EngineError, match=r"needs TensorRT 10.3 or later: pip install 'latentrt\[tensorrt\]'"):
        get_backend("tensorrt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onnxruntine", "unknown engine 'onnxruntine': did you mean 'onnxruntime'\\? known: onnxruntime"),
        ("tensorrrt", "unknown engine 'tensorrrt': did you mean 'tensorrt'"),
        ("", "unknown engine ''"),
        ("backend", "unknown engine 'backend'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        get_backend(name)


def test_a_library_that_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"{backends.__package__}.onnxruntime_backend"
    importlib.import_module(module)
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # importing it now raises ImportError
    with pytest.raises(EngineError, match=r"needs ONNX Runtime: pip install 'latentrt\[cpu\]'"):
        get_backend("onnxruntime")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])  # those that run a graph as it is
class TestEveryBackend:
    @pytest.mark.parametrize("component", COMPONENTS)
    def test_outputs_are_as_declared(
        self, tiny_original: Path, feeds_for: MakeFeeds, name: str, component: str
    ) -> None:
        bundle = Bundle.open(tiny_original)
        with get_backend(name).open(bundle, component, None) as engine:
            assert (engine.inputs, engine.outputs) == (
                bundle.component(component).inputs,
                bundle.component(component).outputs,
            )
            assert engine.key == get_backend(name).key(bundle, component)
            answers = engine.run(feeds_for(component, 3, 2, 4))
        assert list(answers) == [spec.name for spec in engine.outputs]
        sizes: dict[str | int, int] = {"rows": 3, "height": 2, "width": 4}
        sizes |= {"2*height": 4, "2*width": 8, "8*height": 16, "8*width": 32}
        for spec in engine.outputs:
            assert answers[spec.name].dtype == spec.dtype
            assert answers[spec.name].shape == tuple(sizes.get(d, d) for d in spec.shape)
            assert np.isfinite(answers[spec.name]).all()

    @pytest.mark.parametrize("component", COMPONENTS)
    def test_arrays_belong_to_the_caller(
        self, tiny_original: Path, feeds_for: MakeFeeds, name: str, component: str
    ) -> None:
        """Neither side writes to the other's arrays, and a second run leaves the first one's answer alone."""
        feeds = feeds_for(component, 2, 1, 1)
        before = {key: array.copy() for key, array in feeds.items()}
        for array in feeds.values():
            array.flags.writeable = False
        with get_backend(name).open(Bundle.open(tiny_original), component, None) as engine:
            first = engine.run(feeds)
            kept = {key: array.copy() for key, array in first.items()}
            engine.run(feeds_for(component, 1, 1, 1))
            for key, array in first.items():
                np.testing.assert_array_equal(array, kept[key])
                array[...] = 7  # writable, and nobody else's
            again = engine.run(feeds)
        for key, array in again.items():
            np.testing.assert_array_equal(array, kept[key])
            assert not any(np.shares_memory(array, other) for other in (*feeds.values(), *first.values()))
        for key, array in before.items():
            np.testing.assert_array_equal(feeds[key], array)

    @pytest.mark.parametrize("component", COMPONENTS)
    def test_rows_are_independent(self, tiny_original: Path, feeds_for: MakeFeeds, name: str, component: str) -> None:
        feeds = feeds_for(component, 3, 2, 2)
        with get_backend(name).open(Bundle.open(tiny_original), component, None) as engine:
            together = engine.run(feeds)
            alone = [engine.run({key: array[row : row + 1] for key, array in feeds.items()}) for row in range(3)]
        for key, array in together.items():
            expected = np.concatenate([answer[key] for answer in alone])
            # sums of at most 36 products of unit size, in whatever order: a few float32 roundings of 1e-7
            np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5)

    def test_views_and_backward_arrays_are_read_as_numpy_reads_them(
        self, tiny_original: Path, feeds_for: MakeFeeds, name: str
    ) -> None:
        feeds = feeds_for("unet", 2, 2, 2)
        sample = feeds["sample"]
        odd = np.asfortranarray(np.repeat(sample, 2, axis=0))[::2]
        assert not odd.flags.c_contiguous
        with get_backend(name).open(Bundle.open(tiny_original), "unet", None) as engine:
            expected = engine.run(feeds)["out_sample"]
            np.testing.assert_array_equal(engine.run(feeds | {"sample": odd})["out_sample"], expected)

    def test_a_feed_that_does_not_fit_never_reaches_the_library(
        self, tiny_original: Path, feeds_for: MakeFeeds, name: str
    ) -> None:
        feeds = feeds_for("unet", 2, 1, 1)
        with get_backend(name).open(Bundle.open(tiny_original), "unet", None) as engine:
            with pytest.raises(InputError, match=r"unet expects timestep float32 \(rows\); got float64"):
                engine.run(feeds | {"timestep": feeds["timestep"].astype(np.float64)})
            with pytest.raises(InputError, match="unet got no input 'timestep'"):
                engine.run({key: array for key, array in feeds.items() if key != "timestep"})

    def test_a_closed_engine_says_so(self, tiny_original: Path, feeds_for: MakeFeeds, name: str) -> None:
        with get_backend(name).open(Bundle.open(tiny_original), "unet", None) as engine:
            pass
        with pytest.raises(EngineError, match="the unet engine is closed: open the pipeline again"):
            engine.run(feeds_for("unet", 1, 1, 1))
        engine.close()  # twice is allowed

    def test_a_component_that_is_not_there(self, tiny_original: Path, name: str) -> None:
        with pytest.raises(BundleError, match="has no component 'safety_checker'"):
            get_backend(name).open(Bundle.open(tiny_original), "safety_checker", None)
