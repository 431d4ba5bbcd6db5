"""`latentrt verify`: its table, its JSON, its exit code, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from latentrt.cli import run
from latentrt.engines.bundle import Bundle


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the demo bundle, by hard links, that a test may add to."""
    copy = tmp_path / "bundle"
    shutil.copytree(demo_bundle, copy, copy_function=os.link)
    return copy


def test_the_table_has_every_figure_its_limit_and_where_that_comes_from(bundle: Path, capfd) -> None:
    assert run(["verify", str(bundle), "--size", "160x96"]) == 0
    out = capfd.readouterr().out
    lines = out.splitlines()
    assert lines[0].split() == [
        "part",
        "case",
        "tensor",
        "against",
        "max",
        "abs",
        "rel",
        "L2",
        "cosine",
        "PSNR",
        "dB",
        "limit",
    ]
    derived = [line for line in lines if "derived" in line]
    assert len(derived) == 3 + len(Bundle.open(bundle).manifest.decoders)  # UNet, and the encoder's two outputs
    assert all("160x96" in line for line in derived)
    assert sum(line.split()[0] == "picture" for line in lines) == 2
    assert "(1) fp32 against fp32, on unit scale: the threshold that export applies" in lines
    assert max(map(len, lines)) > 100  # not cut to the width of a terminal that is not there
    assert "FAILED" not in out


def test_a_failure_has_exit_code_1_and_the_engine_is_refused_from_then_on(bundle: Path, tmp_path: Path, capfd) -> None:
    assert run(["verify", str(bundle), "--engine", "fake"]) == 1
    output = capfd.readouterr()
    assert "FAILED" in output.out
    [error] = output.err.splitlines()
    assert error.startswith("error: ")
    assert "checks failed, first hidden_states of text_encoder" in error
    draw = ["generate", str(bundle), "a red star", "--steps", "1", "-o", str(tmp_path / "out.png"), "--engine", "fake"]
    assert run(draw) == 2
    assert "failed verification" in capfd.readouterr().err
    assert run([*draw, "--allow-unverified"]) == 0
    assert run(["inspect", str(bundle)]) == 0
    assert "failed verification: " in capfd.readouterr().out
    assert run(["generate", *draw[1:-2]]) == 0  # another engine is another matter


BAD_WORDS: dict[str, tuple[list[str], str]] = {
    "no bundle": (["{bundle}/nowhere"], "there is no bundle at"),
    "engine": (["{bundle}", "--engine", "onxruntime"], "did you mean 'onnxruntime'?"),
    "size": (["{bundle}", "--size", "large"], "a size is WIDTHxHEIGHT in pixels, such as 768x512; got 'large'"),
    "size of the model": (["{bundle}", "--size", "100x96"], "this model takes multiples of 32 pixels"),
    "golden size": (["export", "{bundle}/x.ckpt", "-o", "{bundle}/y", "--golden-size", "9"], "a size is WIDTHxHEIGHT"),
    "golden rows": (["export", "{bundle}/x.ckpt", "-o", "{bundle}/y", "--golden-rows", "a"], "valid integer"),
    "bisect without an inside": (["{bundle}", "--engine", "fake", "--bisect"], "fake"),
}


@pytest.mark.parametrize("name", BAD_WORDS)
def test_bad_words_give_one_clear_line(name: str, bundle: Path, capfd) -> None:
    words, said = BAD_WORDS[name]
    words = [word.format(bundle=bundle) for word in words]
    assert run(words if words[0] == "export" else ["verify", *words]) == 2
    output = capfd.readouterr()
    [error] = output.err.splitlines()
    assert said in error
    assert output.out == ""


def test_json_is_the_whole_report_and_takes_no_torch(bundle: Path) -> None:
    code = (
        "import sys\n"
        "from latentrt.cli import run\n"
        f"code = run(['verify', {str(bundle)!r}, '--json'])\n"
        "loaded = {'torch', 'transformers', 'diffusers', 'onnx'} & set(sys.modules)\n"
        "sys.exit(code or ', '.join(loaded) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["passed"]
    assert found["engine"] == "onnxruntime"
    assert found["keys"].keys() == Bundle.open(bundle).manifest.components.keys()
    check = found["checks"][0]
    assert check["difference"].keys() == {"max_abs", "relative_l2", "cosine", "psnr", "finding"}
    assert check["threshold"]["metric"] == "max_abs"
    assert 0 < check["difference"]["max_abs"] < check["limit"]
