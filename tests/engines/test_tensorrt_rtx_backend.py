"""TensorRT for RTX on a machine with no GPU: everything up to the last call that needs one, with the real library."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from latentrt.cli import run
from latentrt.engines import store
from latentrt.engines.atomic import new_folder
from latentrt.engines.backend import get_backend
from latentrt.engines.bisect import _build_folder
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import EngineError, InputError
from latentrt.engines.options import BuildOptions
from latentrt.engines.passes import PASSES
from latentrt.engines.tensorrt_rtx_backend import BACKEND, check_targets, known_targets
from latentrt.engines.trt import cuda
from latentrt.engines.trt.backend import kernels_file
from latentrt.engines.trt.log import make_log
from latentrt.engines.trt.plan import PLAN, load_plan

Relist = Callable[[Path], None]
TARGETS = ("sm86", "sm89", "sm120")
no_gpu = pytest.mark.skipif(cuda.no_gpu(0) is None, reason="this machine has a GPU")


def rtx(**options: object) -> BuildOptions:
    return BuildOptions(**({"targets": TARGETS} | options))


@pytest.fixture(scope="module")
def built(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo's text encoder, UNet and a decoder, built for three architectures."""
    bundle = Bundle.open(demo_bundle, tmp_path_factory.mktemp("rtx") / "engines")
    backend = get_backend("tensorrt-rtx", rtx())
    for component in ("text_encoder", "unet", "vae_decoder.kl-f8"):
        store.build(backend, bundle, component)
    return bundle


def small_build(bundle: Bundle, folder: Path, component: str = "unet", **options: object) -> int:
    """Build one of the tiny bundle's components; the plan's size."""
    folder.mkdir(exist_ok=True)
    get_backend("tensorrt-rtx", rtx(**options)).build(bundle, component, folder)
    assert [file.name for file in folder.iterdir()] == [PLAN]
    return (folder / PLAN).stat().st_size


def test_the_demo_model_is_built_for_three_architectures(built: Bundle) -> None:
    records = {record.key.component: record for record in store.stored(built) if not isinstance(record, EngineError)}
    assert set(records) == {"text_encoder", "unet", "vae_decoder.kl-f8"}
    for component, record in records.items():
        assert record.verification is None
        assert record.options == rtx()
        assert (record.key.device, record.key.precision) == ("sm86+sm89+sm120", "fp16")
        weights = sum(built.manifest.files[path].size for path in built.component(component).weights)
        assert record.files[PLAN].size > weights / 2  # they are all in it, in fp16
    assert records["text_encoder"].key.profile == "rows=1-8 (usually 2)"
    assert records["unet"].key.profile == "height=4 rows=2 tokens=77 width=4"


def test_a_second_build_returns_at_once(built: Bundle) -> None:
    _, new = store.build(get_backend("tensorrt-rtx", rtx(targets=("sm120", "sm89", "sm86"))), built, "unet")
    assert not new  # the order in which targets are named says nothing


@no_gpu
def test_an_engine_is_stored_unchecked_and_says_why_it_cannot_run(built: Bundle) -> None:
    backend = get_backend("tensorrt-rtx", rtx())
    assert str(backend.obstacle()).startswith("no NVIDIA driver: install one")
    with pytest.raises(EngineError, match="not yet checked on it"):
        store.find(backend, built, "unet")
    folder = store.find(backend, built, "unet", allow_unverified=True)
    with pytest.raises(EngineError, match="the tensorrt-rtx engine of unet cannot run here: no NVIDIA driver"):
        backend.open(built, "unet", folder)


def test_an_engine_for_other_gpus_says_which(monkeypatch: pytest.MonkeyPatch, opened: Bundle) -> None:
    monkeypatch.setattr(cuda, "no_gpu", lambda device: None)
    monkeypatch.setattr(cuda, "find_gpu", lambda device: cuda.Gpu("NVIDIA RTX 5000", "sm75", "13.0"))
    assert get_backend("tensorrt-rtx", rtx()).obstacle() == "this GPU is sm75, the engine is for sm86+sm89+sm120"
    assert get_backend("tensorrt-rtx", rtx(targets=("sm75",))).obstacle() is None
    own = get_backend("tensorrt-rtx")
    assert own.obstacle() is None
    assert own.key(opened, "unet").device == "sm75"
    with pytest.raises(InputError, match="sm75 does not compute in bf16"):  # though nobody named a target
        get_backend("tensorrt-rtx", BuildOptions(precision="bf16")).key(opened, "unet")


@no_gpu
def test_without_a_target_there_must_be_a_gpu(opened: Bundle) -> None:
    with pytest.raises(EngineError, match=r"no NVIDIA driver.*name their GPUs: --target sm86,sm89,sm120"):
        BACKEND.key(opened, "unet")


def test_without_an_engine_there_is_nothing_to_open(opened: Bundle) -> None:
    with pytest.raises(EngineError, match=r"there is no tensorrt-rtx engine of unet.*--engine tensorrt-rtx"):
        get_backend("tensorrt-rtx", rtx()).open(opened, "unet", None)


def test_an_altered_plan_is_never_deserialized(built: Bundle, tmp_path: Path) -> None:
    engines = Path(shutil.copytree(built.engine_dir, tmp_path / "engines"))
    bundle, backend = Bundle.open(built.root, engines), get_backend("tensorrt-rtx", rtx())
    plan = store.engine_folder(bundle, backend.key(bundle, "unet")) / PLAN
    whole = plan.read_bytes()
    for damaged in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], b""):
        plan.write_bytes(damaged)
        with pytest.raises(EngineError, match="altered since it was built"):
            store.find(backend, bundle, "unet", allow_unverified=True)


@pytest.mark.parametrize("content", [b"", b"not a plan" * 1000], ids=["empty", "foreign"])
def test_what_the_library_does_not_take_is_an_engine_error(tmp_path: Path, content: bytes) -> None:
    """Behind the hash: a plan of another version, say. The library gives None, and the error says what it logged."""
    (tmp_path / PLAN).write_bytes(content)
    with pytest.raises(EngineError, match=r"engine\.plan|does not take the plan of unet in .*: ") as caught:
        load_plan(BACKEND.family, tmp_path / PLAN, make_log(BACKEND.family.module), "unet")
    assert "no reason" not in str(caught.value)
    assert "\n" not in str(caught.value)


@no_gpu
def test_the_last_call_without_a_gpu_is_the_one_that_needs_it(built: Bundle) -> None:
    folder = store.engine_folder(built, get_backend("tensorrt-rtx", rtx()).key(built, "unet"))
    with pytest.raises(EngineError, match=r"does not take the plan of unet in .*CUDA"):
        load_plan(BACKEND.family, folder / PLAN, make_log(BACKEND.family.module), "unet")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("sm87",), r"has no sm87 \(Jetson Orin\): build there with --engine tensorrt"),
        (("sm86", "sm90"), r"has no target sm90; it has sm75, sm80, sm86, sm89, sm120"),
        (("sm75", "sm86"), "a plan for sm75 is for sm75 alone"),
    ],
)
def test_targets_that_one_plan_cannot_be_for(opened: Bundle, targets: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        get_backend("tensorrt-rtx", rtx(targets=targets)).key(opened, "unet")


def test_turing_has_no_bf16(opened: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sm75 does not compute in bf16"):
        check_targets(("sm75",), "bf16")
    assert "sm75" in known_targets()
    assert small_build(opened, tmp_path / "sm75", targets=("sm75",)) > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("component", ["text_encoder", "vae_decoder.kl-f8"])
def test_every_precision_is_built(demo_bundle: Path, tmp_path: Path, component: str, precision: str) -> None:
    """The text encoder, whose attention is masked and whose rows are free, and the decoder, whose one head is wide."""
    bundle, weights = Bundle.open(demo_bundle), Bundle.open(demo_bundle).component(component).weights
    size = small_build(bundle, tmp_path / "plan", component, precision=precision, sizes=((64, 64),))
    assert size > sum(bundle.manifest.files[path].size for path in weights) / (1 if precision == "fp32" else 2)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_engine_holds_several_profiles(demo_bundle: Path, tmp_path: Path, precision: str) -> None:
    """Its graph keeps free dimensions, so that attention has no fused kernel in fp32, nor for one wide head."""
    bundle, sizes = Bundle.open(demo_bundle), ((64, 64), (96, 64))
    assert small_build(bundle, tmp_path / "plan", "vae_decoder.kl-f8", precision=precision, sizes=sizes) > 0
    key = get_backend("tensorrt-rtx", rtx(sizes=sizes)).key(bundle, "vae_decoder.kl-f8")
    assert key.profile == "height=8 rows=1 width=8; height=8 rows=1 width=12"


def test_options_that_change_the_plan_change_the_key(opened: Bundle, tmp_path: Path) -> None:
    backend = get_backend("tensorrt-rtx", rtx(weight_streaming=True))
    assert backend.key(opened, "text_encoder").flags == ("weight_streaming", f"passes={PASSES}")
    assert small_build(opened, tmp_path / "plan", "text_encoder", weight_streaming=True) > 0
    with pytest.raises(InputError, match="the tensorrt-rtx engine has no use for --compatible"):
        get_backend("tensorrt-rtx", rtx(compatible=True))


def test_progress_goes_from_nothing_to_nearly_all(opened: Bundle, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    get_backend("tensorrt-rtx", rtx()).build(opened, "unet", tmp_path, lambda doing, share: told.append((doing, share)))
    shares = [share for _, share in told]
    assert told[0] == ("preparing the graph", 0)
    assert shares == sorted(shares)
    assert shares[-1] > 0.8
    assert len({doing for doing, _ in told}) > 3


def test_ctrl_c_stops_a_build(opened: Bundle, tmp_path: Path) -> None:
    def interrupt(doing: str, share: float) -> None:
        if share > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.build(get_backend("tensorrt-rtx", rtx()), opened, "unet", interrupt)
    assert list(opened.engine_dir.iterdir()) == []


def test_a_real_ctrl_c_stops_a_build_wherever_it_finds_python(opened: Bundle) -> None:
    """Not only while it reports: mostly the library's logger is what Python runs next, and errors there are dropped."""
    before, started = signal.getsignal(signal.SIGINT), threading.Event()

    def press() -> None:
        started.wait()
        os.kill(os.getpid(), signal.SIGINT)

    def report(_doing: str, share: float) -> None:
        if share > 0:  # the library is at work
            started.set()

    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        store.build(get_backend("tensorrt-rtx", rtx()), opened, "unet", report)
    pressing.join()
    assert list(opened.engine_dir.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_a_graph_that_the_library_cannot_read_is_named(tiny_bundle: Path, relist: Relist, tmp_path: Path) -> None:
    model = onnx.load(tiny_bundle / "onnx/unet.onnx", load_external_data=False)
    model.graph.node[-1].op_type = "Nonsense"
    (tiny_bundle / "onnx/unet.onnx").write_bytes(model.SerializeToString())
    relist(tiny_bundle)
    with pytest.raises(EngineError, match=r"tensorrt-rtx cannot read the graph of unet: .*Nonsense") as caught:
        small_build(Bundle.open(tiny_bundle), tmp_path / "plan", precision="fp32")
    assert "\n" not in str(caught.value)


def test_a_bundle_in_fp16_gives_no_other_precision(tiny_bundle: Path, edit: Callable[..., None]) -> None:
    edit(tiny_bundle, "components", "unet", "precision", to="fp16")
    with pytest.raises(InputError, match="is in fp16, and an engine in bf16 needs more: export with --precision fp32"):
        get_backend("tensorrt-rtx", rtx(precision="bf16")).key(Bundle.open(tiny_bundle), "unet")


@no_gpu
def test_the_command_line_builds_and_inspect_says_why_it_does_not_fit(
    tiny_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = str(tiny_bundle)
    assert run(["build", bundle, "--engine", "tensorrt-rtx", "--target", "sm86,sm89,sm120"]) == 0
    out, err = capfd.readouterr()
    assert "built, and not checked: no NVIDIA driver" in " ".join(err.split())
    assert out.count("not checked") == len(Bundle.open(bundle).manifest.components)
    assert run(["inspect", bundle]) == 0
    assert "unet tensorrt-rtx: cannot run here: no NVIDIA driver" in capfd.readouterr().out


def test_kernels_are_kept_beside_an_engine_and_not_beside_a_passing_folder(opened: Bundle, tmp_path: Path) -> None:
    key = get_backend("tensorrt-rtx", rtx()).key(opened, "unet")
    stored, beside = store.engine_folder(opened, key), opened.engine_dir / f"{key.id}.kernels"
    assert kernels_file(stored, key) == beside
    with new_folder(tmp_path / key.id) as in_the_making:  # a build is checked there, and need not compile them again
        assert kernels_file(in_the_making, key) == tmp_path / f"{key.id}.kernels"
    with _build_folder(opened.root) as passing:  # of a search for the node that is off
        assert kernels_file(Path(passing), key) is None


@no_gpu
def test_a_build_is_for_the_gpu_that_is_named(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Up to the library, which asks for the current GPU and finds none."""
    gpus = {0: cuda.Gpu("NVIDIA RTX 4090", "sm89", "13.0"), 1: cuda.Gpu("NVIDIA RTX 5090", "sm120", "13.0")}
    current: list[int] = []
    monkeypatch.setattr(cuda, "no_gpu", lambda device: None)
    monkeypatch.setattr(cuda, "find_gpu", gpus.__getitem__)
    monkeypatch.setattr(cuda, "use", current.append)
    assert get_backend("tensorrt-rtx", device=1).key(Bundle.open(tiny_bundle), "unet").device == "sm120"
    assert run(["build", str(tiny_bundle), "--engine", "tensorrt-rtx", "--device", "1"]) == 2
    assert "tensorrt-rtx cannot" in capfd.readouterr().err
    assert current == [1]


def test_feeds_of_the_demo_fit_the_profiles(built: Bundle) -> None:
    """What the pipeline will ask for, beside what was compiled."""
    from latentrt.engines.profile import profiles_for

    [profile] = profiles_for(built, "unet", rtx())
    assert profile.static
    sample = built.component("unet").inputs[0]
    assert profile.shapes(sample)[1] == (2, 4, 16, 16)
    assert np.prod(profile.shapes(sample)[2]) == 2 * 4 * 16 * 16
