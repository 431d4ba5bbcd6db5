"""Traces made here and in processes beside this one: the same bytes, whole or an error, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from torch import nn

from latentrt.engines.errors import LatentrtError
from latentrt.export import traces as traces_module
from latentrt.export.source import SourceModel
from latentrt.export.trace import named_tensors
from latentrt.export.traces import traces
from latentrt.export.wrappers import Network, network_loaders


@pytest.fixture
def outlines(tiny_model: SourceModel) -> list[Network]:
    """The text encoder and the decoder, and a second decoder of the same architecture."""
    loaders = network_loaders(tiny_model)
    text, decoder = (loaders[name].outline() for name in ("text_encoder", "vae_decoder.kl-f8"))
    return [text, decoder, replace(loaders["vae_decoder.kl-f8"].outline(), name="vae_decoder.other")]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the smallest networks are traced in processes of their own."""
    monkeypatch.setattr(traces_module, "_LARGE", 0)


def _processes() -> set[int]:
    """The children of this process."""
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_beside_this_one_gives_the_same_bytes(
    outlines: list[Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    with traces(outlines) as here:
        expected = {outline.name: here[outline.name]() for outline in outlines}
    before = _processes()
    monkeypatch.setattr(traces_module, "_LARGE", 0)
    with traces(outlines) as there:
        assert len(_processes() - before) == max(1, min(2, (os.cpu_count() or 1) // 2))
        assert {outline.name: there[outline.name]() for outline in outlines} == expected
    assert _processes() == before
    assert expected["vae_decoder.kl-f8"] is expected["vae_decoder.other"]


def test_a_trace_names_all_weights_and_holds_none(outlines: list[Network]) -> None:
    with traces(outlines[:1]) as traced:
        model = onnx.ModelProto.FromString(traced["text_encoder"]())
    external = {tensor.name for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL}
    used = {name for node in model.graph.node for name in node.input}
    assert external == {name for name, _ in named_tensors(outlines[0])} & used
    assert len(external) > 10


def test_a_process_that_is_killed_is_one_clear_error(outlines: list[Network], elsewhere: None) -> None:
    before = _processes()
    with traces(outlines[:1]) as traced:
        for pid in _processes() - before:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(LatentrtError, match=r"that traced text_encoder died \(signal 9, for want of memory\?\)"):
            traced["text_encoder"]()


def test_a_network_that_cannot_be_traced_says_why(outlines: list[Network], elsewhere: None) -> None:
    with (
        pytest.raises(RuntimeError, match=r"text_encoder could not be traced:(?s:.*)same reduction dim"),
        traces([replace(outlines[0], module=nn.Linear(1, 1, device="meta"))]) as traced,
    ):
        traced["text_encoder"]()


@pytest.mark.full  # half a minute: a whole export, and each trace in a process of its own
def test_a_script_without_a_main_guard_may_export(tiny_source: Path, tmp_path: Path) -> None:
    """Processes started by Python's multiprocessing would run such a script again."""
    script = f"""
        from pathlib import Path
        from latentrt.export import traces
        from latentrt.export.export import export_bundle
        traces._LARGE = 0
        print("started")
        export_bundle(Path({str(tiny_source)!r}), Path("out"), vaes={{}})
        """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("started\n", "")
    assert (tmp_path / "out" / "bundle.json").exists()


def test_ctrl_c_ends_the_processes_at_once(outlines: list[Network], elsewhere: None) -> None:
    before = _processes()
    with pytest.raises(KeyboardInterrupt), traces(outlines):
        raise KeyboardInterrupt
    assert _processes() == before
