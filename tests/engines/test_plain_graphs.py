"""`latentrt onnx`: plain ONNX files, checked by onnx, built by TensorRT for RTX, and what is refused."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from latentrt.cli import run
from latentrt.engines.backend import get_backend
from latentrt.engines.bundle import Bundle
from latentrt.engines.options import BuildOptions
from latentrt.engines.passes import PASSES
from latentrt.engines.plain_graphs import write_graphs
from latentrt.engines.trt.plan import PLAN

OLD = BuildOptions(targets=("sm86",), opset=20)
FULL = (pytest.param(name, marks=pytest.mark.full) for name in ("unet", "vae_encoder"))
BUILDS = ("text_encoder", "vae_decoder.kl-f8", *FULL)


def test_the_command_writes_every_component_and_the_licence(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "plain"
    assert run(["onnx", str(demo_bundle), "-o", str(output), "--opset", "20"]) == 0
    said = capsys.readouterr()
    assert f"{output}/unet/graph.onnx  fp16, height=4 rows=2 tokens=77 width=4" in said.out
    for component in Bundle.open(demo_bundle).manifest.components:
        graph = output / component / "graph.onnx"
        onnx.checker.check_model(str(graph), full_check=True)
        assert [entry.version for entry in onnx.load(graph, load_external_data=False).opset_import] == [20]
    assert (output / "LICENSE-MODEL").is_file()


def test_a_graph_that_needs_no_change_is_copied_with_its_weights(opened: Bundle, tmp_path: Path) -> None:
    found = write_graphs(opened, tmp_path / "plain", BuildOptions(precision="fp32", rows=(1, 2)))
    graph = found["unet"].file
    assert graph.read_bytes() == opened.graph("unet").read_bytes()
    onnx.checker.check_model(str(graph), full_check=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--opset", "20", "--precision", "bf16"], "opset 20 of ONNX has no bf16 convolution: build with --precision"),
        (["--opset", "19"], "an option of the build is out of range: Invalid enum value 19 - at `$.opset`"),
    ],
)
def test_a_form_that_there_is_not_is_refused(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(["onnx", str(tiny_bundle), "-o", str(tmp_path / "plain"), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "plain").exists()


@pytest.mark.parametrize("component", BUILDS)
def test_tensorrt_for_rtx_builds_the_old_form(demo_bundle: Path, tmp_path: Path, component: str) -> None:
    bundle = Bundle.open(demo_bundle)
    backend = get_backend("tensorrt-rtx", OLD)
    backend.build(bundle, component, tmp_path)
    weights = sum(bundle.manifest.files[path].size for path in bundle.component(component).weights)
    assert (tmp_path / PLAN).stat().st_size > weights / 2  # they are all in it, in fp16
    assert backend.key(bundle, component).flags == ("opset=20", f"passes={PASSES}")
    assert get_backend("tensorrt-rtx", BuildOptions(targets=("sm86",))).key(bundle, component).flags == (
        f"passes={PASSES}",
    )
