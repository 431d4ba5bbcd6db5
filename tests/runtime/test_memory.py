"""Pictures drawn within a budget, by processes of their own: what the system says they took is within it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentrt import Pipeline
from latentrt.engines import store
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import InputError
from latentrt.engines.footprint import APPETITES, Appetite
from latentrt.engines.onnxruntime_backend import OnnxRuntimeBackend
from latentrt.engines.options import BuildOptions
from latentrt.runtime.picture import read_facts
from latentrt.runtime.residency import Residency
from support import sized_backend

DRAW = """
import sys
from latentrt.cli import run
from latentrt.engines.process_memory import peak_bytes
code = run(sys.argv[1:])
print("peak", peak_bytes())
sys.exit(code)
"""
SIDE = 256  # where the decoder takes more than the UNet
OPTIONS = {"num_inference_steps": 2, "seed": 3, "width": SIDE, "height": SIDE}


def _drawn(bundle: Path, memory: str, output: Path) -> tuple[int, int, str]:
    """Exit code, peak RSS in bytes, and what was told, of one guided picture."""
    words = ["generate", str(bundle), "a red star", "--steps", "2", "--seed", "3", "--memory", memory]
    words += ["--width", str(SIDE), "--height", str(SIDE), "-o", str(output)]
    ended = subprocess.run([sys.executable, "-c", DRAW, *words], capture_output=True, text=True, check=False)
    found = re.search(r"^peak (\d+)$", ended.stdout, re.MULTILINE)
    assert found is not None, ended.stderr
    return ended.returncode, int(found[1]), ended.stderr


def test_peaks_stay_within_budgets_that_force_turns_and_tiles(demo_bundle: Path, tmp_path: Path) -> None:
    code, free, told = _drawn(demo_bundle, "4GB", tmp_path / "free.png")
    assert (code, "all engines stay open" in told) == (0, True)
    turns = _told(r"memory: (\d+) MB planned of", told) * 9 // 10
    code, _, told = _drawn(demo_bundle, "160MB", tmp_path / "never.png")
    assert code == 2
    assert re.fullmatch(r"error: 160 MB of memory are too little: unet takes \d+ MB by itself [^\n]*\n", told)
    assert not (tmp_path / "never.png").exists()
    tiles = _told(r"takes (\d+) MB by itself", told) + 8 * 10**6  # the UNet fits, and not the whole decoder
    code, peak, told = _drawn(demo_bundle, f"{turns // 10**6}MB", tmp_path / "turns.png")
    assert (code, "engines opened in turn" in told, "tiles" in told) == (0, True, False), told
    assert peak <= turns
    assert peak < free
    assert "taken at most" in told
    code, peak, told = _drawn(demo_bundle, f"{tiles // 10**6}MB", tmp_path / "tiles.png")
    assert (code, "decoded in tiles of" in told) == (0, True), told
    assert peak <= tiles
    assert "tile" in read_facts(tmp_path / "tiles.png")


def _told(pattern: str, told: str) -> int:
    """The bytes of an amount in MB that a message tells."""
    found = re.search(pattern, told)
    assert found is not None, told
    return int(found[1]) * 10**6


def test_engines_in_turn_draw_the_same_picture_and_submit_does_too(demo_bundle: Path, monkeypatch) -> None:
    opened: list[str] = []
    real = OnnxRuntimeBackend.open

    def noted(backend, bundle, component, folder):
        opened.append(component)
        return real(backend, bundle, component, folder)

    with Pipeline.open(demo_bundle) as free:
        expected = free.generate("a red star", **OPTIONS).images[0]
    monkeypatch.setattr(OnnxRuntimeBackend, "open", noted)
    with Pipeline.open(demo_bundle, memory="4GB") as wide:
        assert wide.residency is not None
        assert opened == []  # nothing before it runs
        wide.generate("a red star", **OPTIONS)
        assert opened == ["text_encoder", "unet", "vae_decoder.kl-f8"]
    opened.clear()
    budget = _just_too_little(demo_bundle)
    with Pipeline.open(demo_bundle, memory=budget) as pipe:
        images = [pipe.submit("a red star", **OPTIONS).result().images[0] for _ in range(2)]
    assert len(opened) > 3  # some were closed, and opened again
    for image in images:
        assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).max() <= 1
    with pytest.raises(InputError, match="memory is an amount such as '4GB', or bytes"):
        Pipeline.open(demo_bundle, memory=-1)
    opened.clear()
    with Pipeline.open(demo_bundle, memory="1MB") as none, pytest.raises(InputError, match="too little"):
        none.submit("a red star", **OPTIONS).result()
    assert opened == []


def _just_too_little(bundle: Path) -> int:
    """A budget in which not all engines stay open, for a process that has taken what this one has."""
    from latentrt import Request
    from latentrt.runtime.request import plan

    request = Request(prompt="a red star", **OPTIONS)  # type: ignore[arg-type]
    with Pipeline.open(bundle, memory="64GB") as pipe:
        assert pipe.residency is not None
        return pipe.residency.plan(request, plan(request, pipe.bundle.manifest)).peak - 60 * 10**6


def test_weights_stream_where_an_engine_was_built_to_and_does_not_fit(demo_bundle: Path, tmp_path, monkeypatch) -> None:
    sized = sized_backend.register(monkeypatch)
    monkeypatch.setitem(APPETITES, "sized", Appetite(gpu=True, library=0, engine=0, tensors=1.0, scores=1.0))
    monkeypatch.setattr(Residency, "_gpu_bytes", lambda self: 0)  # of no GPU: this machine's own memory is not counted
    bundle, streaming = Bundle.open(demo_bundle, tmp_path), BuildOptions(weight_streaming=True, sizes=((64, 64),))
    for component in ("text_encoder", "unet", "vae_decoder.kl-f8"):
        store.build(replace(sized, options=streaming), bundle, component)

    def draw(memory: str) -> np.ndarray:
        with Pipeline.open(demo_bundle, engine="sized", engine_dir=tmp_path, memory=memory) as pipe:
            found = pipe.generate("a red star", num_inference_steps=2, width=64, height=64).images[0]
        return np.asarray(found)

    expected = draw("64GB")
    assert set(sized_backend.resident.values()) == {None}
    with pytest.raises(InputError, match="unet takes") as refused:
        draw("1MB")
    least = _told(r"takes (\d+) MB by itself", str(refused.value))
    np.testing.assert_array_equal(draw(f"{least // 10**6 + 2}MB"), expected)
    held = sized_backend.resident["unet"]
    weights = sum(bundle.manifest.files[path].size for path in bundle.component("unet").weights)
    assert held is not None
    assert 0 < held < weights / 2
