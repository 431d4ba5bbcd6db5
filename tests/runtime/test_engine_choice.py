"""The pipeline, `verify` and `inspect` with engines that were built for certain sizes, and with `--engine auto`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from latentrt import Pipeline, Request
from latentrt.cli import run
from latentrt.engines import auto, store
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import EngineError, InputError
from latentrt.engines.manifest import TEXT_ENCODER, UNET
from latentrt.engines.options import BuildOptions
from latentrt.engines.profiled import Outputs
from latentrt.engines.size import Size
from latentrt.engines.tensor import Feeds
from latentrt.engines.verification import Verification
from latentrt.runtime import verify
from latentrt.runtime.verify import verify_bundle
from support import sized_backend

PROMPT, QUICK = "a red star", {"num_inference_steps": 2, "seed": 5}
OWN, WIDE = (128, 128), (192, 64)  # PyTorch recorded answers at the demo's own size, and none at the other


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_bundle, tmp_path / "bundle", copy_function=os.link))


@pytest.fixture
def build(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Size, Path | None], dict[str, str]]:
    """Builds what a picture of a size takes; gives the key of each component."""
    sized = sized_backend.register(monkeypatch)

    def built(size: Size, engine_dir: Path | None = None) -> dict[str, str]:
        opened = Bundle.open(bundle, engine_dir)
        configured = replace(sized, options=BuildOptions(sizes=(size,)))
        parts = (TEXT_ENCODER, UNET, "vae_decoder.kl-f8")
        return {part: store.build(configured, opened, part)[0].key.id for part in parts}

    return built


def test_each_size_is_drawn_by_the_engine_that_was_built_for_it(bundle: Path, build) -> None:
    keys = {size: build(size) for size in (OWN, WIDE)}
    with Pipeline.open(bundle, engine="sized") as pipe, Pipeline.open(bundle) as reference:
        for size in (WIDE, OWN):
            options = {"width": size[0], "height": size[1], **QUICK}
            drawn, expected = pipe.generate(PROMPT, **options), reference.generate(PROMPT, **options)
            np.testing.assert_allclose(drawn.latents, expected.latents, rtol=0, atol=1e-3)
            assert f"unet={keys[size][UNET]} " in drawn.facts[0]["engine"]
            assert drawn.facts[0]["engine"].endswith(f"vae_decoder.kl-f8={keys[size]['vae_decoder.kl-f8']}")
        with pytest.raises(InputError, match=r"none of the 2 sized engines of vae_decoder.kl-f8 holds .* --size 64x64"):
            pipe.generate(PROMPT, width=64, height=64, **QUICK)


def test_a_size_that_the_decoder_does_not_hold_fails_before_anything_is_drawn(bundle: Path, build, monkeypatch) -> None:
    keys = build(OWN)
    build(WIDE)
    opened = Bundle.open(bundle)
    for record in store.records(opened):  # of the decoder's engines the one for the model's own size stays
        if record.key.component == "vae_decoder.kl-f8" and record.key.id != keys["vae_decoder.kl-f8"]:
            shutil.rmtree(store.engine_folder(opened, record.key))
    with Pipeline.open(bundle, engine="sized") as pipe:
        unheld = r"the sized engine of vae_decoder.kl-f8 holds no profile for height=8 width=24; .* --size 192x64"
        with pytest.raises(InputError, match=unheld):
            pipe.start(Request(prompt=PROMPT, width=WIDE[0], height=WIDE[1]))
        assert pipe.step() == []
        with pytest.raises(InputError, match=unheld):
            pipe.submit(PROMPT, width=WIDE[0], height=WIDE[1]).result()


def test_the_engines_of_a_pipeline_share_in_whichever_thread_they_open(bundle: Path, build) -> None:
    build(OWN)
    sized_backend.shared.clear()
    with Pipeline.open(bundle, engine="sized") as pipe:
        pipe.submit(PROMPT, width=OWN[0], height=OWN[1], **QUICK).result()  # the decoder opens in the pipeline's thread
        threads, scratches = zip(*sized_backend.shared, strict=True)
        assert len(scratches) == 3
        assert len(set(threads)) == 2
        assert {id(scratch) for scratch in scratches} == {id(pipe.wanted.scratch)}
        with Pipeline(pipe.bundle, pipe.wanted) as other:
            assert sized_backend.shared[-1][1] is other.wanted.scratch
            assert other.wanted.scratch is not pipe.wanted.scratch


def test_engines_may_lie_outside_of_the_bundle(bundle: Path, build, tmp_path: Path, capfd) -> None:
    elsewhere = tmp_path / "engines"
    keys = build(OWN, elsewhere)
    with pytest.raises(EngineError, match="no sized engine of unet fits here: none was built"):
        Pipeline.open(bundle, engine="sized")
    draw = ["generate", str(bundle), PROMPT, "--steps", "1", "-o", str(tmp_path / "a.png"), "--engine", "sized"]
    assert run(draw) == 2
    assert run([*draw, "--engine-dir", str(elsewhere), "--precision", "fp16", "--device", "0"]) == 0
    assert run([*draw, "--engine-dir", str(elsewhere), "--device", "1"]) == 2
    assert "does not fit: device: sm80, not sm89" in capfd.readouterr().err
    assert run(["inspect", str(tmp_path / "a.png")]) == 0
    assert keys[UNET] in capfd.readouterr().out


def test_verify_runs_what_the_engines_hold_and_says_what_it_skips(bundle: Path, build, capfd) -> None:
    """Of components that were not built nothing is asked: the bundle is cut down to those of a picture."""
    keys = build(WIDE)
    opened = Bundle.open(bundle)
    others = [name for name in opened.manifest.components if name not in keys]
    sized = replace(sized_backend.BACKEND, options=BuildOptions(sizes=(WIDE,)))
    keys |= {name: store.build(sized, opened, name)[0].key.id for name in others}
    found = verify_bundle(bundle, engine="sized")
    assert found.passed
    assert found.keys == keys
    assert {check.against for check in found.checks if check.part == UNET} == {"derived"}
    assert not any(check.part.startswith("trajectory") for check in found.checks)
    assert [line.split(":")[0] for line in found.skipped] == [
        "trajectory guidance-7.5 was not drawn",
        "trajectory guidance-1 was not drawn",
    ]
    build(OWN)
    again = verify_bundle(bundle, engine="sized")
    assert again.passed
    assert again.skipped == []
    assert len(again.keys[UNET].split()) == 2
    assert {check.against for check in again.checks if check.part == UNET} == {"PyTorch", "derived"}
    assert {check.part for check in again.checks} >= {"trajectory guidance-7.5", "trajectory guidance-1"}


def test_auto_says_on_standard_error_which_engine_it_took(
    bundle: Path, build, tmp_path: Path, capfd, monkeypatch
) -> None:
    monkeypatch.setattr(auto, "ORDER", ("sized", "onnxruntime"))
    draw = ["generate", str(bundle), PROMPT, "--steps", "1", "-o", str(tmp_path / "a.png"), "--engine", "auto"]
    assert run(draw) == 0
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(
        "engine onnxruntime, fp32, from graphs, and nothing has verified its text_encoder: build it with "
    )
    build(OWN)
    assert run(draw) == 0
    assert capfd.readouterr().err.splitlines() == ["engine sized, fp16, built and verified"]
    with Pipeline.open(bundle, engine="auto") as pipe:
        assert pipe.wanted.engine == "sized"


def test_verify_checks_what_was_never_checked_though_another_engine_passed(bundle: Path, build, capfd) -> None:
    opened, sized = Bundle.open(bundle), replace(sized_backend.BACKEND, options=BuildOptions(precision="fp32"))
    first = {name: store.build(sized, opened, name)[0] for name in opened.manifest.components}
    half = replace(sized, options=BuildOptions(precision="fp16"))
    bad = replace(sized, options=BuildOptions(precision="fp32", sizes=(WIDE,)))
    records = [store.build(backend, opened, UNET)[0] for backend in (half, bad)]
    for record, verification in zip(records, (None, failing(records[1].verification)), strict=True):
        edit_record(opened, record, verification)
    found = verify_bundle(bundle, engine="sized")
    assert found.passed
    keys = {first[UNET].key.id, *(record.key.id for record in records)}
    assert set(found.keys[UNET].split()) == keys
    for record in records:
        kept = store.read_record(store.engine_folder(opened, record.key)).verification
        assert kept is not None
        assert kept.passed
    drawn = store.read_record(store.engine_folder(opened, records[0].key)).verification
    assert drawn.checks == records[0].verification.checks + 20  # what is best now has drawn both trajectories
    assert run(["inspect", str(bundle), "--engines"]) == 0
    assert "not yet checked" not in capfd.readouterr().out


def test_each_failing_engine_of_a_component_is_searched(bundle: Path, build, monkeypatch) -> None:
    opened = Bundle.open(bundle)
    for name in opened.manifest.components:
        for precision in ("fp16", "fp32"):
            options = BuildOptions(precision=precision, sizes=(OWN,))
            store.build(replace(sized_backend.BACKEND, options=options), opened, name)
    real = sized_backend.SizedEngine._run_profile

    def wrong(self: sized_backend.SizedEngine, index: int, feeds: Feeds) -> Outputs:
        answers = real(self, index, feeds)
        return {name: answer * 1.5 for name, answer in answers.items()} if self.name == UNET else answers

    monkeypatch.setattr(sized_backend.SizedEngine, "_run_profile", wrong)
    monkeypatch.setattr(verify, "bisect", lambda *_, **__: None)
    found = verify_bundle(bundle, engine="sized", find_departure=True)
    assert found.departures == dict.fromkeys(found.keys[UNET].split())
    assert len(found.departures) == 2


def failing(verification: Verification) -> Verification:
    return msgspec.structs.replace(verification, failures=("the sky is green",))


def edit_record(bundle: Bundle, record: store.EngineRecord, verification: Verification | None) -> None:
    changed = msgspec.structs.replace(record, verification=verification)
    (store.engine_folder(bundle, record.key) / store.RECORD).write_bytes(msgspec.json.encode(changed))


def test_inspect_engines_tells_what_each_is_and_which_part_of_its_key_differs(
    bundle: Path, build, capfd, monkeypatch
) -> None:
    assert run(["inspect", str(bundle), "--engines"]) == 0
    assert capfd.readouterr().out.startswith("no engines in ")
    keys = build(WIDE)
    assert run(["inspect", str(bundle), "--engines", "--device", "1"]) == 0
    blocks = capfd.readouterr().out.split("\n" + keys[UNET])
    block = blocks[-1] if len(blocks) > 1 else blocks[0]
    assert "unet: does not fit: device: sm80, not sm89" in block
    assert "engine           sized 1, fp16" in block
    assert "profile          height=2 rows=2 tokens=77 width=6" in block
    assert "built with       sizes 192x64" in block
    assert "on disk " in block
    assert "verification     passed on a GPU: relative l2 " in block
    assert run(["inspect", str(bundle), "--engines"]) == 0
    assert capfd.readouterr().out.count("fits this machine") == 3
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(sized_backend, "CARD", "another GPU")
        assert run(["inspect", str(bundle), "--engines"]) == 0
    assert capfd.readouterr().out.count("fits this machine; not yet checked on another GPU") == 3
    graph = bundle / "engines" / keys[UNET] / "graph.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    assert run(["inspect", str(bundle), "--engines"]) == 0
    assert "damaged: " in capfd.readouterr().out
