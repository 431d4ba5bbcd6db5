"""ONNX Runtime on a GPU, as far as a machine without one goes: the build, the refusal, and the binding on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from latentrt.engines import store
from latentrt.engines.backend import get_backend
from latentrt.engines.bundle import Bundle
from latentrt.engines.choice import misfit
from latentrt.engines.errors import EngineError, InputError
from latentrt.engines.golden import golden_cases
from latentrt.engines.manifest import Precision
from latentrt.engines.metrics import difference
from latentrt.engines.onnxruntime_cuda_backend import BACKEND, CUDA, GRAPH, BoundEngine, Place, cuda_settings
from latentrt.engines.options import BuildOptions, checked
from latentrt.engines.passes import PASSES
from latentrt.engines.profile import profiles_for

CPU = Place("CPUExecutionProvider", "cpu", 0)  # the same session, binding and buffers, in another memory
no_cuda = pytest.mark.skipif(BACKEND.obstacle() is None, reason="this machine has a GPU")


def bound_engine(bundle: Bundle, component: str, folder: Path, options: BuildOptions) -> BoundEngine:
    backend = get_backend("onnxruntime-cuda", options)
    backend.build(bundle, component, folder)
    key, profiles = backend.key(bundle, component), profiles_for(bundle, component, options)
    return BoundEngine(bundle, component, key, profiles, folder / GRAPH, CPU)


@no_cuda
def test_an_engine_is_built_without_a_gpu_and_says_why_it_does_not_run(demo_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(demo_bundle, tmp_path / "engines")
    backend = get_backend("onnxruntime-cuda")
    record, new = store.build(backend, bundle, "unet")
    assert new
    assert (record.key.precision, record.verification) == ("fp16", None)
    model = onnx.load(store.engine_folder(bundle, record.key) / GRAPH, load_external_data=False)
    assert not {"Shape", "Gather", "Expand"} & {node.op_type for node in model.graph.node}  # one static profile
    matrices = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1 and min(tensor.dims) > 1}
    assert matrices == {onnx.TensorProto.FLOAT16}
    with pytest.raises(EngineError, match="cannot run here: this ONNX Runtime has no CUDA: pip uninstall onnxruntime"):
        backend.open(bundle, "unet", store.engine_folder(bundle, record.key))
    with pytest.raises(EngineError, match=r"latentrt build .* --engine onnxruntime-cuda"):
        backend.open(bundle, "unet", None)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_what_is_bound_answers_as_pytorch_did(precision: Precision, demo_bundle: Path, tmp_path: Path) -> None:
    bundle, component = Bundle.open(demo_bundle), "unet"
    options = BuildOptions(precision=precision, sizes=((128, 128),), rows=(4,))
    floor = bundle.component(component).floor["fp16"] if precision == "fp16" else 1e-5
    with bound_engine(bundle, component, tmp_path, options) as engine:
        held = [case for case in golden_cases(bundle, component) if engine.takes(case.inputs)]
        assert held
        for case in [*held, *held]:  # a second time in the same buffers
            [(name, expected)] = case.outputs.items()
            assert difference(engine.run(case.inputs)[name], expected).relative_l2 <= 2 * floor


@pytest.mark.parametrize("shapes", [{"sizes": ((128, 128), (96, 64))}, {"rows": (2, 4)}, {"tokens": (77, 154)}])
def test_an_engine_of_several_shapes_is_refused_before_it_is_built(demo_bundle: Path, tmp_path: Path, shapes) -> None:
    backend = get_backend("onnxruntime-cuda", BuildOptions(**shapes))
    with pytest.raises(InputError, match="holds one shape: give one --size, one of --rows and one of --tokens"):
        store.build(backend, Bundle.open(demo_bundle, tmp_path), "unet")
    assert not list(tmp_path.iterdir())


def test_answers_belong_to_the_caller_and_rows_are_filled_up(demo_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(demo_bundle)
    case = next(case for case in golden_cases(bundle, "unet") if case.name.startswith("rows2-128x128"))
    one = {name: array[:1] for name, array in case.inputs.items()}
    with bound_engine(bundle, "unet", tmp_path, BuildOptions(precision="fp32", sizes=((128, 128),))) as engine:
        first = engine.run(case.inputs)["out_sample"]
        kept = first.copy()
        alone = engine.run(one)["out_sample"]
        np.testing.assert_array_equal(first, kept)
        assert alone.shape[0] == 1
        assert difference(alone, kept[:1]).relative_l2 < 1e-5
        with pytest.raises(InputError, match=r"holds no profile for .* --size 64x64"):
            engine.run({**one, "sample": one["sample"][:, :, :8, :8]})


def test_buffers_that_cannot_be_had_are_one_clear_error(demo_bundle: Path, tmp_path: Path) -> None:
    """No room for them on a GPU, say: here there is not even one to ask."""
    bundle = Bundle.open(demo_bundle)
    case = next(case for case in golden_cases(bundle, "unet") if case.name.startswith("rows2-128x128"))
    with bound_engine(bundle, "unet", tmp_path, BuildOptions(sizes=((128, 128),))) as engine:
        engine._place = Place(CPU.provider, "cuda", 0)
        with pytest.raises(EngineError, match="ONNX Runtime failed in unet: ") as caught:
            engine.run(case.inputs)
        assert "\n" not in str(caught.value)


def test_fp32_is_not_tf32_and_only_static_shapes_are_captured() -> None:
    settings = cuda_settings(1, "fp32", captured=True, memory_limit=None)
    assert settings == {"device_id": "1", "use_tf32": "0", "enable_cuda_graph": "1", "prefer_nhwc": "0"}
    settings = cuda_settings(0, "fp16", captured=False, memory_limit=None)
    assert (settings["use_tf32"], settings["enable_cuda_graph"]) == ("1", "0")


def test_a_memory_limit_is_in_the_key_and_of_its_size() -> None:
    settings = cuda_settings(0, "fp16", captured=True, memory_limit=2.5)
    assert (settings["gpu_mem_limit"], settings["arena_extend_strategy"]) == ("2500000000", "kSameAsRequested")
    with pytest.raises(InputError, match="the onnxruntime engine has no use for --memory-limit"):
        get_backend("onnxruntime", BuildOptions(memory_limit=2.5))
    with pytest.raises(InputError, match="out of range"):
        checked(BuildOptions(memory_limit=0.0))


@no_cuda
def test_a_memory_limit_gives_an_engine_of_its_own(demo_bundle: Path) -> None:
    bundle = Bundle.open(demo_bundle)
    limited = get_backend("onnxruntime-cuda", BuildOptions(memory_limit=2.5)).key(bundle, "unet")
    assert limited.flags == ("memory_limit=2.5", f"passes={PASSES}")
    assert limited.id != get_backend("onnxruntime-cuda").key(bundle, "unet").id


def test_without_cuda_python_it_cannot_run_here_and_the_rest_of_the_bundle_is_still_told(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(demo_bundle, tmp_path / "engines")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA])
    monkeypatch.delitem(sys.modules, "latentrt.engines.trt.cuda", raising=False)
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, None)  # as where they are not installed
    record, _ = store.build(get_backend("onnxruntime-cuda"), bundle, "unet")
    assert record.verification is None
    assert misfit(bundle, record) == (
        "cannot run here: engines on NVIDIA GPUs need cuda-python: pip install 'latentrt[tensorrt]', or 'latentrt[rtx]'"
    )


@no_cuda
def test_without_cuda_the_real_library_refuses_and_the_error_says_what_to_install(
    demo_bundle: Path, tmp_path: Path
) -> None:
    bundle, backend = Bundle.open(demo_bundle), get_backend("onnxruntime-cuda")
    backend.build(bundle, "unet", tmp_path)
    profiles = profiles_for(bundle, "unet", BuildOptions())
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(EngineError, match=r"cannot load unet from .*: .* pip install 'latentrt\[cuda\]'$"),
    ):
        BoundEngine(bundle, "unet", backend.key(bundle, "unet"), profiles, tmp_path / GRAPH, Place(CUDA, "cuda", 0))
