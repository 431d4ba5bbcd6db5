"""`latentrt bench` as it is typed: words and their errors, two contestants on the demo bundle, and the gate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import pytest
import yaml

from latentrt.benchmarks.contestants import registry
from latentrt.benchmarks.demo_model import CHECKPOINT
from latentrt.benchmarks.trial.gate_trials import spoil
from latentrt.benchmarks.trial.results import Timing, read_results, write_results
from latentrt.cli import run

ROOT = Path(__file__).resolve().parents[3]
TINY = [
    "--engine",
    "onnxruntime",
    "--steps",
    "1",
    "--rounds",
    "3",
    "--pictures",
    "1",
    "--calls",
    "0",
    "--cold-starts",
    "0",
]


BAD_WORDS: dict[str, tuple[list[str], str]] = {
    "no bundle": (["{tmp}/none"], "there is no bundle at"),
    "size": (["{bundle}", "--size", "128"], "a size is WIDTHxHEIGHT"),
    "size of another model": (["{bundle}", "--size", "100x128"], "multiples of 32 pixels"),
    "steps": (["{bundle}", "--steps", "0"], "num_inference_steps is a whole number from 1"),
    "guidance": (["{bundle}", "--guidance-scale", "nan"], "guidance_scale is a finite number"),
    "peer": (["{bundle}", "--against", "torhc"], "did you mean 'torch'?"),
    "peer twice": (["{bundle}", "--against", "torch,torch"], "torch is named twice"),
    "engine": (["{bundle}", "--engine", "tensorflow"], "unknown contestant 'latentrt:tensorflow'"),
    "precision alone": (["{bundle}", "--precision", "bf16"], "name it with --engine"),
    "peer without weights": (["{bundle}", "--against", "torch"], "give it with --source"),
    "another checkpoint": (["{bundle}", "--source", "{bundle}/bundle.json"], "the peers would run another model"),
    "no checkpoint": (["{bundle}", "--source", "{tmp}/none"], "--source"),
    "prompts": (["{bundle}", "--prompts", "{tmp}/none"], "--prompts names a file with a prompt a line"),
    "no prompts": (["{bundle}", "--prompts", "{tmp}/empty"], "has no prompts"),
    "batch": (["{bundle}", "--batch", "1,x"], "--batch is a list of whole numbers"),
    "batch of none": (["{bundle}", "--batch", "0"], "--batch is a list of different counts"),
    "environment": (["{bundle}", "--environment", "torch"], "--environment is NAME=PYTHON"),
    "environment of nobody": (["{bundle}", "--environment", "torch={python}"], "torch takes no part"),
    "environment of nothing": (["{bundle}", "--environment", "torch={tmp}/none"], "is no program"),
    "slowdown of nothing": (["{bundle}", "--max-slowdown", "5%"], "name its results.json with --baseline"),
    "slowdown": (["{bundle}", "--baseline", "{tmp}/empty", "--max-slowdown", "fast"], "is a share, such as 5%"),
    "baseline": (["{bundle}", "--baseline", "{tmp}/none"], "name a results.json"),
    "no results": (["{bundle}", "--baseline", "{bundle}/bundle.json"], "results"),
    "output": (["{bundle}", "-o", "{tmp}/no/out"], "its parent does not exist"),
    "output of something else": (["{bundle}", "-o", "{bundle}"], "holds no bench"),
}


@pytest.mark.parametrize("name", BAD_WORDS)
def test_bad_words_give_one_clear_line(name: str, demo_bundle: Path, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    words, said = BAD_WORDS[name]
    places = {"bundle": demo_bundle, "tmp": tmp_path, "python": sys.executable}
    assert run(["bench", *(word.format(**places) for word in words)]) == 2
    line = capfd.readouterr().err.strip()
    assert "\n" not in line
    assert line.startswith("error: ")
    assert said in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_two_contestants_from_the_command_to_the_report(demo_bundle: Path, tmp_path: Path, capfd) -> None:
    """latentrt beside PyTorch, in this interpreter's own environment; both draw the same picture."""
    words = ["bench", str(demo_bundle), "--source", str(CHECKPOINT / "demo.safetensors"), "--against", "torch"]
    words += [
        "--environment",
        f"torch={sys.executable}",
        "--cache",
        str(tmp_path / "cache"),
        "-o",
        str(tmp_path / "out"),
    ]
    (tmp_path / "prompts").write_text("a red circle on a blue background\n\na small yellow star\n")
    words += ["--size", "64x64"]
    assert run([*words, *TINY, "--calls", "1", "--rounds", "1", "--prompts", str(tmp_path / "prompts")]) == 0
    out, err = capfd.readouterr()
    assert "error" not in err
    files = [Path(line) for line in out.split()]
    assert files[0] == tmp_path / "out" / "results.json"
    assert all(file.stat().st_size for file in files)
    found = read_results(files[0])
    assert {name: one.state for name, one in found.contestants.items()} == {
        "latentrt:onnxruntime": "measured",
        "torch": "measured",
    }
    accuracy = found.contestants["latentrt:onnxruntime"].accuracy
    assert accuracy is not None
    assert accuracy.reference == "torch"
    assert accuracy.picture is not None
    assert accuracy.picture["PSNR, dB"].worst > 60
    assert len(found.settings.prompts) == 2
    assert found.settings.source == found.settings.model


def test_the_gate_fails_by_exit_code_and_says_what_regressed(demo_bundle: Path, tmp_path: Path, capfd) -> None:
    """Against a baseline that is said to have been much faster, and with a spoilt layer."""
    (tmp_path / "prompts").write_text("a red circle on a blue background")
    tiny = [*TINY, "--prompts", str(tmp_path / "prompts")]
    words = ["bench", str(demo_bundle), *tiny, "-o", str(tmp_path / "first")]
    assert run([*words, "--min-psnr", "40"]) == 0
    assert "ok: latentrt:onnxruntime's worst picture has PSNR" in capfd.readouterr().err
    first = read_results(tmp_path / "first" / "results.json")
    faster = _scaled(first.contestants["latentrt:onnxruntime"], 0.1)
    write_results(
        msgspec.structs.replace(first, contestants={"latentrt:onnxruntime": faster}), tmp_path / "faster.json"
    )
    # the same folder: everything was measured, and only the verdict is new
    assert run([*words, "--baseline", str(tmp_path / "faster.json"), "--max-slowdown", "5%"]) == 1
    err = capfd.readouterr().err
    assert "FAILED: latentrt:onnxruntime is" in err
    assert "slower than the baseline" in err.splitlines()[-1]
    assert "beyond the noise of both runs" in err.splitlines()[-1]
    spoilt = spoil(demo_bundle, tmp_path / "spoilt")
    words = ["bench", str(spoilt), *tiny, "--rounds", "1", "-o", str(tmp_path / "second"), "--min-psnr", "40"]
    assert run([*words, "--baseline", str(tmp_path / "first" / "results.json")]) == 1
    assert "dB against golden, limit 40.00 dB" in capfd.readouterr().err.splitlines()[-1]


def _scaled(contestant, factor: float):
    """As if every picture had taken so many times as long."""
    latency = {
        scope: Timing(**{**msgspec.structs.asdict(timing), "samples": tuple(factor * s for s in timing.samples)})
        for scope, timing in contestant.latency.items()
    }
    processor = tuple(factor * seconds for seconds in contestant.processor)
    return msgspec.structs.replace(contestant, latency=latency, processor=processor)


def test_interrupted_it_says_how_to_go_on(demo_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from latentrt.cli import main; main()", "bench", str(demo_bundle), *TINY]
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*command, "--rounds", "500", "-o", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": tempfile.gettempdir()},
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while not (out / "journal.jsonl").exists() or b'"picture"' not in (out / "journal.jsonl").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"what was measured is in {out}: the same command goes on" in err
    assert "Traceback" not in err


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, demo_bundle: Path, capfd) -> None:
    code = f"""
import sys
from importlib.abc import MetaPathFinder
class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"filelock", "scipy"}}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from latentrt.cli import run
sys.exit(run(["bench", {str(demo_bundle)!r}]))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "pip install 'latentrt[bench]'" in ended.stderr
    assert ended.stderr.strip().count("\n") == 0


def test_nothing_of_it_needs_torch_in_this_process(demo_bundle: Path) -> None:
    """All that a trial without PyTorch's contestants imports, where torch's stack cannot be imported."""
    code = """
import sys
from importlib.abc import MetaPathFinder
REFUSED = {"torch", "transformers", "diffusers", "onnx", "onnx_ir", "onnxscript", "accelerate"}
class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
import latentrt.commands.bench
from latentrt.benchmarks.trial.inputs import make_inputs
from latentrt.benchmarks.trial.recorded import recorded
print(sorted(REFUSED & set(sys.modules)))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "[]"), ended.stderr


def test_the_workflow_is_one_and_its_commands_are_ours(capsys: pytest.CaptureFixture[str]) -> None:
    flow = yaml.safe_load((ROOT / "docs" / "bench-workflow.yml").read_text(encoding="utf-8"))
    [job] = flow["jobs"].values()
    commands = "\n".join(step.get("run", "") for step in job["steps"])
    assert "latentrt bench" in commands
    assert run(["bench", "--help"]) == 0
    shown = capsys.readouterr().out
    words = {word for line in commands.splitlines() for word in line.split() if word.startswith("--")}
    assert {"--baseline", "--max-slowdown", "--min-psnr"} <= words
    bench = commands[commands.index("latentrt bench") :]
    assert all(word in shown for word in bench.split() if word.startswith("--"))


def test_the_page_names_every_contestant_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    assert [name for name in registry.NAMES if f"`{name}`" not in text and not name.startswith("latentrt:")] == []
    assert run(["bench", "--help"]) == 0
    shown = capsys.readouterr().out
    options = {word.strip("`│ ,") for word in shown.split() if word.startswith("--")}
    assert [option for option in sorted(options - {"--help", "--output"}) if option not in text] == []


def test_results_are_of_this_schema(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps({"version": 0}))
    assert run(["bench", str(tmp_path), "--baseline", str(tmp_path / "old.json")]) == 2
