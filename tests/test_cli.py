"""The command line: what it prints and writes, and one clear line and an exit code for everything that can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentrt import Pipeline
from latentrt.benchmarks.demo_model import CHECKPOINT
from latentrt.cli import run
from latentrt.engines import threshold

PROMPT = "a large red circle on a blue background"
QUICK = ["--steps", "2", "-o"]


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may damage: hard links, and each test replaces what it changes."""
    copy = tmp_path / "bundle"
    shutil.copytree(demo_bundle, copy, copy_function=os.link)
    return copy


def replace(file: Path, data: bytes) -> None:
    file.unlink()  # the original is linked
    file.write_bytes(data)


def edit_manifest(bundle: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((bundle / "bundle.json").read_text())
    change(content)
    replace(bundle / "bundle.json", json.dumps(content).encode())


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    replace(file, bytes(data))


def test_generate_writes_the_picture_that_the_pipeline_draws(demo_bundle: Path, tmp_path: Path, capfd) -> None:
    words = ["generate", str(demo_bundle), PROMPT, "--seed", "3", "-n", "2", *QUICK, str(tmp_path / "out.png")]
    assert run([*words, "--sampler", "dpmpp_2m", "--karras", "--decoder", "ft-ema", "--width", "96"]) == 0
    files = [tmp_path / "out-1.png", tmp_path / "out-2.png"]
    assert capfd.readouterr().out.split() == [str(file) for file in files]
    assert sorted(tmp_path.iterdir()) == files
    options = {"num_inference_steps": 2, "seed": 3, "num_images_per_prompt": 2, "width": 96}
    with Pipeline.open(demo_bundle) as pipe:
        expected = pipe.generate(PROMPT, sampler="dpmpp_2m", spacing="karras", decoder="ft-ema", **options).images
    for file, image in zip(files, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(image))


def test_inspect_explains_a_picture_and_a_bundle(demo_bundle: Path, tmp_path: Path, capfd) -> None:
    assert run(["generate", str(demo_bundle), PROMPT, *QUICK, str(tmp_path / "a.png")]) == 0
    capfd.readouterr()
    assert run(["inspect", str(tmp_path / "a.png")]) == 0
    picture = capfd.readouterr().out
    assert run(["inspect", str(demo_bundle)]) == 0
    explained = capfd.readouterr().out
    assert PROMPT in picture
    bundle_hash = next(line.split()[1] for line in explained.splitlines() if line.startswith("hash"))
    assert bundle_hash in picture
    assert "kl-f8, ft-ema, ft-mse" in explained
    assert "takes sample float32 (rows, 4, 4*height, 4*width)" in explained
    assert "Apache-2.0" in explained


def test_build_stores_checked_engines_that_draw_the_same_picture(bundle: Path, tmp_path: Path, capfd) -> None:
    assert run(["generate", str(bundle), PROMPT, *QUICK, str(tmp_path / "before.png")]) == 0
    assert run(["build", str(bundle)]) == 0
    built = capfd.readouterr().out
    assert built.count("from PyTorch") == 6
    assert run(["build", str(bundle)]) == 0
    assert capfd.readouterr().out.count("already built") == 6
    assert run(["inspect", str(bundle)]) == 0
    assert capfd.readouterr().out.count("fits this machine") == 6
    assert run(["generate", str(bundle), PROMPT, *QUICK, str(tmp_path / "after.png")]) == 0
    before, after = (np.asarray(Image.open(tmp_path / f"{name}.png"), np.int16) for name in ("before", "after"))
    assert np.abs(before - after).max() <= 1  # the stored graph is fused for this processor: other rounding
    records = (bundle / "engines").glob("*/engine.json")
    unet = next(file.parent for file in records if json.loads(file.read_text())["key"]["component"] == "unet")
    flip_a_bit(unet / "graph.onnx")
    capfd.readouterr()
    assert run(["generate", str(bundle), PROMPT, *QUICK, str(tmp_path / "x.png")]) == 2
    assert_one_line(capfd, "altered since it was built")
    assert run(["inspect", str(bundle)]) == 0
    assert "damaged: " in capfd.readouterr().out


def test_a_failed_check_has_exit_code_1(bundle: Path, capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold, "MAX_ABS_ERROR", 1e-12)
    assert run(["build", str(bundle)]) == 1
    assert "is not what PyTorch answered" in capfd.readouterr().err
    assert list((bundle / "engines").iterdir()) == []


# what is typed after "latentrt"; {bundle}, {tmp} and {checkpoint} are places -> what the one line must say
BAD_WORDS: dict[str, tuple[list[str], str]] = {
    "no such command": (["generat"], "No such command"),
    "nothing to draw from": (["generate"], "Missing argument"),
    "negative prompt alone": (["generate", "{bundle}", "--negative-prompt", "x"], "give prompt='' to guide by it"),
    "a name too long": (["inspect", "{tmp}/" + "x" * 300], "File name too long"),
    "two lines in a name": (["inspect", "{tmp}/a\nb"], "does not exist"),
    "no such option": (["generate", "{bundle}", "x", "--stepz", "3"], "No such option"),
    "a word for a number": (["generate", "{bundle}", "x", "--steps", "many"], "valid integer"),
    "nothing at the path": (["generate", "{tmp}/nowhere", "x"], "there is no bundle at"),
    "not a bundle": (["generate", "{tmp}", "x"], "is not a bundle: it has no file bundle.json"),
    "a file for a bundle": (["generate", "{bundle}/bundle.json", "x"], "is not a bundle"),
    "width": (["generate", "{bundle}", "x", "--width", "100"], "multiple of 32 pixels"),
    "width of 8": (["generate", "{bundle}", "x", "--width", "12"], "multiple of 32 pixels"),
    "negative height": (["generate", "{bundle}", "x", "--height", "-8"], "height is a number of pixels"),
    "no steps": (["generate", "{bundle}", "x", "--steps", "0"], "num_inference_steps is a whole number from 1"),
    "sampler": (["generate", "{bundle}", "x", "--sampler", "eulr"], "did you mean 'euler'?"),
    "decoder": (["generate", "{bundle}", "x", "--decoder", "ftmse"], "did you mean 'ft-mse'?"),
    "engine": (["generate", "{bundle}", "x", "--engine", "onxruntime"], "did you mean 'onnxruntime'?"),
    "guidance NaN": (["generate", "{bundle}", "x", "--guidance-scale", "nan"], "guidance_scale is a finite number"),
    "guidance infinite": (
        ["generate", "{bundle}", "x", "--guidance-scale", "inf"],
        "guidance_scale is a finite number",
    ),
    "seed": (["generate", "{bundle}", "x", "--seed", str(2**64)], "seed: expected an integer from"),
    "too many pictures": (["generate", "{bundle}", "x", "-n", "1000"], "num_images_per_prompt"),
    "karras": (["generate", "{bundle}", "x", "--sampler", "pndm", "--karras"], "takes no karras spacing"),
    "spacing": (["generate", "{bundle}", "x", "--spacing", "karas"], "did you mean 'karras'?"),
    "two spacings": (["generate", "{bundle}", "x", "--spacing", "leading", "--karras"], "two spacings"),
    "timesteps": (["generate", "{bundle}", "x", "--timesteps", "999,x"], "--timesteps is a list of numbers"),
    "sigmas": (["generate", "{bundle}", "x", "--sigmas", "1,2"], "each below the one before"),
    "eta": (["generate", "{bundle}", "x", "--eta", "1"], "takes no eta; these do: ddim, tcd"),
    "guidance interval": (["generate", "{bundle}", "x", "--guidance-interval", "3"], "guidance_interval is two noise"),
    "lone surrogate": (["generate", "{bundle}", "half \ud800"], "surrogate"),
    "output folder": (["generate", "{bundle}", "x", "-o", "{tmp}/no/out.png"], "does not exist"),
    "output is a folder": (["generate", "{bundle}", "x", "-o", "{tmp}/folder.png"], "is not a plain file"),
    "output type": (["generate", "{bundle}", "x", "-o", "{tmp}/out.jpg"], "give a name that ends in .png"),
    "unwritable output": (["generate", "{bundle}", "x", "-o", "/proc/out.png"], "cannot write /proc/out.png"),
    "inspect nothing": (["inspect", "{tmp}/nowhere"], "does not exist"),
    "inspect another file": (["inspect", "{bundle}/bundle.json"], "is not a readable PNG"),
    "build for another engine": (["build", "{bundle}", "--engine", "tensorflow"], "unknown engine"),
    "build the engine that is none": (["build", "{bundle}", "--engine", "fake"], "unknown engine 'fake'"),
    "export nothing": (["export", "{tmp}/nowhere.safetensors", "-o", "{tmp}/b"], "nowhere.safetensors"),
    "export not a checkpoint": (["export", "{bundle}/bundle.json", "-o", "{tmp}/b"], "bundle.json"),
    "export over a bundle": (["export", "{checkpoint}", "-o", "{bundle}"], "is there already"),
    "export into nothing": (["export", "{checkpoint}", "-o", "{tmp}/no/b"], "does not exist"),
    "weights": (["export", "{checkpoint}", "-o", "{tmp}/b", "--weights", "emma"], "is not one of"),
    "vae without a name": (["export", "{checkpoint}", "-o", "{tmp}/b", "--vae", "x.safetensors"], "NAME=PATH"),
    "vae twice": (["export", "{checkpoint}", "-o", "{tmp}/b", "--vae", "a=x", "--vae", "a=y"], "one name twice"),
    "vae name": (["export", "{checkpoint}", "-o", "{tmp}/b", "--vae", "../a=x"], "'../a'"),
    "vae file": (["export", "{checkpoint}", "-o", "{tmp}/b", "--vae", "a={tmp}/none"], "none"),
    "variant of a file": (["export", "{checkpoint}", "-o", "{tmp}/b", "--variant", "fp16"], "is a single file"),
    "prediction": (["export", "{checkpoint}", "-o", "{tmp}/b", "--prediction", "v"], "is not one of"),
    "add-decoder without a name": (["add-decoder", "{bundle}", "x.safetensors"], "NAME=PATH"),
    "add-decoder to nothing": (["add-decoder", "{tmp}/nowhere", "a={tmp}/none"], "there is no bundle at"),
    "add-decoder of a taken name": (["add-decoder", "{bundle}", "ft-mse={tmp}/none"], "has a decoder 'ft-mse' already"),
    "add-decoder of nothing": (["add-decoder", "{bundle}", "a={tmp}/none.safetensors"], "cannot be read"),
}


@pytest.mark.parametrize("name", BAD_WORDS)
def test_bad_words_give_one_clear_line(
    name: str, bundle: Path, tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, said = BAD_WORDS[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    places = {"bundle": bundle, "tmp": tmp_path, "checkpoint": CHECKPOINT / "demo.safetensors"}
    assert run([word.format(**places) for word in words]) == 2
    assert_one_line(capfd, said)
    assert sorted(tmp_path.rglob("*")) == before  # nothing written, nothing lost


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "newer format": (lambda b: edit_manifest(b, lambda m: m.update(format=2)), "upgrade latentrt"),
    "no format": (lambda b: edit_manifest(b, lambda m: m.pop("format")), "names no format version"),
    "not JSON": (lambda b: replace(b / "bundle.json", b"{"), "not valid JSON"),
    "missing field": (lambda b: edit_manifest(b, lambda m: m["model"].pop("scaling_factor")), "scaling_factor"),
    "missing component": (lambda b: edit_manifest(b, lambda m: m["components"].pop("unet")), "no component 'unet'"),
    "missing file": (lambda b: (b / "onnx/unet.onnx").unlink(), "unet.onnx is missing"),
    "cut file": (lambda b: replace(b / "onnx/unet.onnx", b"short"), "unet.onnx has 5 bytes"),
    "flipped bit in a graph": (lambda b: flip_a_bit(b / "onnx/unet.onnx"), "unet.onnx is altered"),
    "flipped bit in weights": (lambda b: flip_a_bit(b / "onnx/unet.safetensors"), "unet.safetensors is altered"),
    "flipped bit in the decoder": (lambda b: flip_a_bit(b / "onnx/vae_decoder.kl-f8.onnx"), "kl-f8.onnx is altered"),
    "flipped bit in the tokenizer": (lambda b: flip_a_bit(b / "tokenizer/tokenizer.json"), "tokenizer.json is altered"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_bundle_gives_one_clear_line(name: str, bundle: Path, tmp_path: Path, capfd) -> None:
    damage, said = DAMAGE[name]
    damage(bundle)
    assert run(["generate", str(bundle), PROMPT, *QUICK, str(tmp_path / "out.png")]) == 2
    assert_one_line(capfd, said)
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_inspect_checks_files_that_drawing_does_not_need(bundle: Path, capfd) -> None:
    flip_a_bit(bundle / "golden/unet.safetensors")
    assert run(["inspect", str(bundle)]) == 2
    assert_one_line(capfd, "golden/unet.safetensors is altered")


def test_generate_takes_a_path_and_guidance_and_no_prompt(demo_bundle: Path, tmp_path: Path) -> None:
    shared = {"seed": 3, "sampler": "ddim", "timesteps": [999, 500], "eta": 0.5}
    words = ["--seed", "3", "--sampler", "ddim", "--timesteps", "999,500", "--eta", "0.5"]
    guided = ["--guidance-interval", "0.5,20", "--guidance-rescale", "0.7"]
    assert run(["generate", str(demo_bundle), PROMPT, *words, *guided, "-o", str(tmp_path / "guided.png")]) == 0
    assert run(["generate", str(demo_bundle), *words, "-o", str(tmp_path / "free.png")]) == 0
    with Pipeline.open(demo_bundle) as pipe:
        expected = {
            "guided": pipe.generate(PROMPT, guidance_interval=(0.5, 20), guidance_rescale=0.7, **shared),
            "free": pipe.generate(**shared),
        }
    for name, result in expected.items():
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"{name}.png")), np.asarray(result.images[0]))


def test_an_empty_prompt_is_allowed(demo_bundle: Path, tmp_path: Path) -> None:
    assert run(["generate", str(demo_bundle), "", *QUICK, str(tmp_path / "out.png")]) == 0


def assert_one_line(capfd, said: str) -> None:
    """The error is one line that says `said`; nothing went to standard output."""
    output = capfd.readouterr()
    assert output.out == ""
    errors = output.err.splitlines()
    assert len(errors) == 1, output.err
    assert errors[0].startswith("error: ")
    assert said in errors[0]


def test_a_full_disk_is_named_and_leaves_nothing(demo_bundle: Path, tmp_path: Path) -> None:
    """A limit on file size stands in for the full disk: the system refuses the write in the same way."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "from latentrt.cli import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    words = ["generate", str(demo_bundle), PROMPT, *QUICK, str(tmp_path / "out.png")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"cannot write {tmp_path / 'out.png'}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("command", "number"), [("generate", signal.SIGINT), ("export", signal.SIGTERM)])
def test_a_stop_ends_with_one_line_and_leaves_nothing(
    command: str, number: signal.Signals, demo_bundle: Path, tmp_path: Path
) -> None:
    words = {
        "generate": ["generate", str(demo_bundle), PROMPT, "--steps", "1000", "-o", str(tmp_path / "out.png")],
        "export": ["export", str(CHECKPOINT / "demo.safetensors"), "-o", str(tmp_path / "bundle")],
    }[command]
    program = Path(sys.executable).with_name("latentrt")
    with subprocess.Popen([program, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)  # until the work has begun: its hidden file is there
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1].startswith("error: interrupted")
    assert list(tmp_path.iterdir()) == []
