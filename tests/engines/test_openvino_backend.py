"""OpenVINO answers as onnx's own reference evaluator, from the bundle's graph and from a built engine alike."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx.reference import ReferenceEvaluator

from latentrt.engines import openvino_backend, openvino_library, store
from latentrt.engines.backend import get_backend
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import BundleError, EngineError, InputError
from latentrt.engines.key import cpu
from latentrt.engines.metrics import difference
from latentrt.engines.openvino_backend import BACKEND, BLOB
from latentrt.engines.options import BuildOptions
from latentrt.engines.threshold import ROUNDINGS

MakeFeeds = Callable[[str, int, int, int], dict[str, np.ndarray]]
Relist = Callable[[Path], None]
Edit = Callable[..., None]
COMPONENTS = ["text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8"]
BF16 = replace(BACKEND, options=BuildOptions(precision="bf16"))
has_bf16 = pytest.mark.skipif("BF16" not in openvino_backend._capabilities(), reason="a processor without bf16")


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


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell of mapped files")
def test_a_blob_that_was_packed_out_of_is_given_back(tiny_original: Path, tmp_path: Path, feeds_for: MakeFeeds) -> None:
    bundle, feeds = Bundle.open(tiny_original), feeds_for("unet", 2, 1, 1)
    BACKEND.build(bundle, "unet", tmp_path)
    with BACKEND.open(bundle, "unet", tmp_path) as engine:
        assert resident_kilobytes(tmp_path / BLOB) > 0
        first = engine.run(feeds)["out_sample"]
        assert resident_kilobytes(tmp_path / BLOB) == 0
        np.testing.assert_array_equal(engine.run(feeds)["out_sample"], first)


def resident_kilobytes(file: Path) -> int:
    """Of a mapped file's pages, those that this process has in memory."""
    found, here = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            here = line.endswith(str(file))
        elif here and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


@has_bf16
@pytest.mark.parametrize("built", [False, True], ids=["as it is", "built"])
def test_bf16_rounds_as_bf16_and_no_coarser(
    tiny_original: Path, tmp_path: Path, feeds_for: MakeFeeds, built: bool
) -> None:
    bundle, feeds = Bundle.open(tiny_original), feeds_for("unet", 2, 2, 2)
    if built:
        BF16.build(bundle, "unet", tmp_path)
    [expected] = ReferenceEvaluator(str(bundle.graph("unet"))).run(None, feeds)
    with BF16.open(bundle, "unet", tmp_path if built else None) as engine:
        answer = engine.run(feeds)["out_sample"]
    assert answer.dtype == np.float32
    error = difference(answer, expected).relative_l2
    assert 2**-12 < error < ROUNDINGS * 2**-8  # fp32 would be below 1e-6


@has_bf16
@pytest.mark.parametrize("built", [False, True], ids=["as it is", "built"])
def test_waves_of_the_timestep_are_exact_in_bf16(
    tiny_bundle: Path, tmp_path: Path, relist: Relist, feeds_for: MakeFeeds, built: bool
) -> None:
    """bf16 has no odd number above 256: rounded to it, 613 becomes 612 and its sine another one."""
    graph = tiny_bundle / "onnx/unet.onnx"
    model = onnx.load(graph, load_external_data=False)
    make, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    model.graph.initializer.append(tensor(np.array([1, 0.3, 0.1, 0.03], np.float32).reshape(1, 1, 1, 4), "frequencies"))
    model.graph.initializer.append(tensor(np.full((8, 1), 0.5, np.float32), "mixed"))
    nodes = [node for node in model.graph.node if node.output[0] != "time"]
    place = [node.output[0] for node in nodes].index("t") + 1
    nodes[place:place] = [
        make("Mul", ["t", "frequencies"], ["angle"]),
        make("Sin", ["angle"], ["sine"]),
        make("Cos", ["angle"], ["cosine"]),
        make("Concat", ["sine", "cosine"], ["waves"], axis=3),
        make("MatMul", ["waves", "mixed"], ["time"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    graph.write_bytes(model.SerializeToString())
    relist(tiny_bundle)
    bundle = Bundle.open(tiny_bundle)
    if built:
        (tmp_path / "engine").mkdir()
        BF16.build(bundle, "unet", tmp_path / "engine")
    feeds = feeds_for("unet", 3, 2, 2) | {"timestep": np.array([613, 997, 301], np.float32)}
    [expected] = ReferenceEvaluator(str(graph)).run(None, feeds)
    with BF16.open(bundle, "unet", tmp_path / "engine" if built else None) as engine:
        answer = engine.run(feeds)["out_sample"]
        np.testing.assert_array_equal(engine.run(feeds)["out_sample"], answer)
    assert difference(answer, expected).relative_l2 < ROUNDINGS * 2**-8  # 0.3 with the angle rounded


@has_bf16
def test_every_component_is_built_and_checked_in_bf16(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    for component in COMPONENTS:
        record, new = store.build(BF16, bundle, component)
        assert new
        assert record.key.precision == "bf16"
        assert record.verification is not None
        assert record.verification.threshold.metric == "relative_l2"
        assert store.find(BF16, bundle, component) is not None
        assert store.find(BACKEND, bundle, component) is None  # an fp32 engine is another


def test_bf16_is_refused_where_the_processor_has_none(
    tiny_original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_backend, "_capabilities", lambda: ["FP32", "INT8"])
    bundle = Bundle.open(tiny_original)
    for attempt in (lambda: BF16.open(bundle, "unet", None), lambda: BF16.build(bundle, "unet", tmp_path)):
        with pytest.raises(EngineError, match=r"bf16 where the processor does .* FP32, INT8: leave out --precision"):
            attempt()
    assert list(tmp_path.iterdir()) == []
    BACKEND.build(bundle, "unet", tmp_path)


def test_fp16_is_no_precision_of_it() -> None:
    with pytest.raises(InputError, match="the openvino engine computes in fp32, bf16; got --precision fp16"):
        get_backend("openvino", BuildOptions(precision="fp16"))


def test_the_key_names_what_the_blob_depends_on(opened: Bundle) -> None:
    key = BACKEND.key(opened, "unet")
    assert (key.backend, key.backend_version, key.device) == ("openvino", openvino.get_version(), cpu())
    assert key.precision == "fp32"  # OpenVINO itself would take bf16 where the processor has it
    assert key.id != BF16.key(opened, "unet").id


def test_a_built_engine_needs_nothing_of_the_bundle(tiny_bundle: Path, tmp_path: Path, feeds_for: MakeFeeds) -> None:
    bundle, folder = Bundle.open(tiny_bundle), tmp_path / "engine"
    folder.mkdir()
    BACKEND.build(bundle, "unet", folder)
    assert [file.name for file in folder.iterdir()] == [BLOB]
    feeds = feeds_for("unet", 1, 1, 1)
    with BACKEND.open(bundle, "unet", None) as engine:
        expected = engine.run(feeds)
    for path in (*bundle.component("unet").weights, bundle.component("unet").graph):
        (tiny_bundle / path).unlink()
    before = (folder / BLOB).read_bytes()
    with BACKEND.open(bundle, "unet", folder) as engine:
        np.testing.assert_array_equal(engine.run(feeds)["out_sample"], expected["out_sample"])
    assert (folder / BLOB).read_bytes() == before  # mapped as writable memory, and not written


def test_a_stored_engine_is_used_and_refused_once_altered(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    _, new = store.build(BACKEND, bundle, "unet")
    assert new
    _, again = store.build(BACKEND, bundle, "unet")
    assert not again
    folder = store.find(BACKEND, bundle, "unet")
    assert folder == store.engine_folder(bundle, BACKEND.key(bundle, "unet"))
    data = bytearray((folder / BLOB).read_bytes())
    data[-1] ^= 1
    (folder / BLOB).write_bytes(data)
    with pytest.raises(EngineError, match="is missing or altered since it was built"):
        store.find(BACKEND, bundle, "unet")


@pytest.mark.parametrize("cut", [0, 100, -1000], ids=["empty", "its head", "without its end"])
def test_half_a_blob_is_an_engine_error(tiny_original: Path, tmp_path: Path, cut: int) -> None:
    bundle = Bundle.open(tiny_original)
    BACKEND.build(bundle, "unet", tmp_path)
    (tmp_path / BLOB).write_bytes((tmp_path / BLOB).read_bytes()[:cut])
    with pytest.raises(EngineError, match="OpenVINO cannot open unet from ") as caught:
        BACKEND.open(bundle, "unet", tmp_path)
    assert "\n" not in str(caught.value)


def test_damage_is_found_before_the_library_reads_a_byte(tiny_bundle: Path) -> None:
    (tiny_bundle / "onnx/unet.onnx").write_bytes(bytes((tiny_bundle / "onnx/unet.onnx").stat().st_size))
    with pytest.raises(BundleError, match="is altered"):
        BACKEND.open(Bundle.open(tiny_bundle), "unet", None)


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Nonsense"


def without_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "x"


def another_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "x"


@pytest.mark.parametrize("change", [unknown_operator, without_output, another_output])
def test_a_graph_that_cannot_be_loaded_is_an_engine_error(
    tiny_bundle: Path, relist: Relist, change: Callable[[onnx.ModelProto], None]
) -> None:
    graph = tiny_bundle / "onnx/unet.onnx"
    model = onnx.load(graph, load_external_data=False)
    change(model)
    graph.write_bytes(model.SerializeToString())
    relist(tiny_bundle)
    with pytest.raises(EngineError, match="OpenVINO cannot load unet") as caught:
        BACKEND.open(Bundle.open(tiny_bundle), "unet", None)
    assert "\n" not in str(caught.value)
    assert "Exception from" not in str(caught.value)


def test_a_run_that_fails_is_an_engine_error(tiny_bundle: Path, edit: Edit, feeds_for: MakeFeeds) -> None:
    """The manifest promises a width of 9, the graph takes 8: the feeds fit the one and not the other."""
    shape = ("components", "unet", "inputs", 2, "shape")
    edit(tiny_bundle, *shape, to=["rows", 77, 9])
    with BACKEND.open(Bundle.open(tiny_bundle), "unet", None) as engine:
        feeds = feeds_for("unet", 1, 1, 1) | {"encoder_hidden_states": np.zeros((1, 77, 9), np.float32)}
        with pytest.raises(EngineError, match="OpenVINO failed in unet: ") as caught:
            engine.run(feeds)
        assert "\n" not in str(caught.value)


def test_a_library_that_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    module = openvino_backend.__name__
    for name in (module, openvino_library.__name__):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it now raises ImportError
    with pytest.raises(EngineError, match=r"needs OpenVINO: pip install 'latentrt\[openvino\]'"):
        get_backend("openvino")
    monkeypatch.undo()
    assert importlib.import_module(module) is openvino_backend


FRESH = """
import sys
from latentrt.engines.backend import get_backend
get_backend("openvino")
import openvino
sys.exit(any(name.startswith(("openvino.tools", "openvino_telemetry")) for name in sys.modules))
"""


def test_the_library_is_loaded_without_the_part_that_reports_its_use(tmp_path: Path) -> None:
    """`import openvino` alone sends an event to Intel, and leaves an identifier in the home folder."""
    subprocess.run([sys.executable, "-c", FRESH], env={"HOME": str(tmp_path), "PATH": "", **_source()}, check=True)
    assert list(tmp_path.iterdir()) == []


def _source() -> dict[str, str]:
    import latentrt

    return {"PYTHONPATH": str(Path(latentrt.__file__).parents[1])}
