"""A packed bundle: as small as drawing allows, whole or not there, and trusting no engine that it does not list."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from latentrt import Pipeline
from latentrt.cli import run
from latentrt.engines import onnxruntime_backend as ort
from latentrt.engines import pack as pack_module
from latentrt.engines import store
from latentrt.engines.bundle import Bundle
from latentrt.engines.choice import Wanted, choices
from latentrt.engines.engine_set import open_engine
from latentrt.engines.errors import BundleError, EngineError, InputError
from latentrt.engines.options import BuildOptions
from latentrt.engines.pack import pack
from latentrt.runtime.verify import verify_bundle
from support import sized_backend

PARTS = ("text_encoder", "unet", "vae_decoder.kl-f8")


@pytest.fixture
def built(opened: Bundle) -> Bundle:
    """The tiny bundle with engines of what a picture takes."""
    for name in PARTS:
        store.build(ort.BACKEND, opened, name)
    return opened


@pytest.fixture
def packed(built: Bundle, tmp_path: Path) -> Bundle:
    return pack(built, tmp_path / "packed")


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_it_holds_what_drawing_takes_and_nothing_else(built: Bundle, packed: Bundle) -> None:
    ids = {name: ort.BACKEND.key(built, name).id for name in PARTS}
    engines = {f"engines/{key}/{file.name}" for key in ids.values() for file in (built.engine_dir / key).iterdir()}
    assert set(tree(packed.root)) == {
        "bundle.json",
        "tokenizer/tokenizer.json",
        "tokenizer/token_embedding.safetensors",
        "LICENSE-MODEL",
        *engines,
    }
    assert set(packed.manifest.files) == {path for path in tree(packed.root) if not path.endswith(".json")} | {
        "tokenizer/tokenizer.json"
    }
    for name, component in packed.manifest.components.items():
        assert component.packed is not None
        assert (component.graph, component.weights, component.golden) == (None, (), None)
        assert component.packed.engines == (ids[name],)
        assert ort.BACKEND.key(packed, name) == ort.BACKEND.key(built, name)
    assert packed.manifest.provenance["packed.from"] == built.hash
    assert packed.manifest.trajectory is None


def test_its_engines_answer_as_before_and_nothing_else_is_opened(built: Bundle, packed: Bundle, feeds_for) -> None:
    feeds = feeds_for("unet", 2, 1, 2)
    with open_engine(built, "unet", Wanted()) as before, open_engine(packed, "unet", Wanted()) as after:
        np.testing.assert_array_equal(before.run(feeds)["out_sample"], after.run(feeds)["out_sample"])
    with pytest.raises(EngineError, match="no fake engine of unet fits here: none was built; the bundle"):
        choices(packed, "unet", Wanted(engine="fake"))
    with pytest.raises(BundleError, match="packed without the graph of unet"):
        packed.graph("unet")


def test_an_engine_that_is_not_listed_is_not_trusted(built: Bundle, packed: Bundle) -> None:
    [choice] = choices(packed, "unet", Wanted())
    assert choice.folder is not None
    (choice.folder / ort.GRAPH).write_bytes(ort.GRAPH.encode())  # and a record that says so
    file = store.FileRecord(size=len(ort.GRAPH), sha256=store.sha256(choice.folder / ort.GRAPH))
    assert choice.record is not None
    changed = msgspec.structs.replace(choice.record, files={**choice.record.files, ort.GRAPH: file})
    (choice.folder / store.RECORD).write_bytes(msgspec.json.encode(changed))
    with pytest.raises(EngineError, match=r"is not the engine that .* was packed with"):
        choices(Bundle.open(packed.root), "unet", Wanted())[0].open()
    with pytest.raises(BundleError, match=r"graph\.onnx has 10 bytes"):
        Bundle.open(packed.root).verify_all()


def test_only_what_is_named_is_packed(built: Bundle, tmp_path: Path) -> None:
    unet = ort.BACKEND.key(built, "unet").id
    packed = pack(built, tmp_path / "packed", engines=[unet], decoders=["kl-f8"])
    components = packed.manifest.components
    assert components.keys() == set(PARTS)
    assert [name for name in PARTS if components[name].packed is not None] == ["unet"]
    assert components["text_encoder"] == built.component("text_encoder")
    assert packed.manifest.trajectory == built.manifest.trajectory  # for the graphs that are still to be checked
    again = pack(packed, tmp_path / "again", engines=[unet])  # a packed bundle can be packed
    assert again.manifest.files == packed.manifest.files
    for options, said in (({"engines": ["f00"]}, "unknown engine 'f00'"), ({"decoders": ["x"]}, "unknown decoder 'x'")):
        with pytest.raises(InputError, match=said):
            pack(built, tmp_path / "no", **options)


def test_what_cannot_be_packed_leaves_nothing(built: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = store.read_record(store.engine_folder(built, ort.BACKEND.key(built, "unet")))
    assert record.verification is not None
    failed = msgspec.structs.replace(record.verification, failures=("the sky is green",))
    (store.engine_folder(built, record.key) / store.RECORD).write_bytes(
        msgspec.json.encode(msgspec.structs.replace(record, verification=failed))
    )
    with pytest.raises(EngineError, match="failed verification: the sky is green"):
        pack(built, tmp_path / "packed", engines=[record.key.id])
    real = pack_module._copy_file

    def interrupted(file: Path, target: Path) -> None:
        real(file, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(pack_module, "_copy_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(built, tmp_path / "packed")
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_answers_travel_with_an_engine_that_is_yet_to_be_checked(
    opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sized = replace(sized_backend.register(monkeypatch), options=BuildOptions(sizes=((32, 16),)))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(type(sized), "obstacle", lambda self: "no such device here")
        record, _ = store.build(sized, opened, "unet")
    assert record.verification is None
    packed = pack(opened, tmp_path / "packed", engines=[record.key.id])
    assert packed.component("unet").golden is not None
    msgspec.structs.force_setattr(packed.manifest, "trajectory", None)
    monkeypatch.setattr(Bundle, "open", lambda *_: packed)
    for name in packed.manifest.components:  # those that have their graphs are built here
        if name != "unet":
            store.build(sized, packed, name)
    with pytest.raises(EngineError, match="not yet checked"):
        open_engine(packed, "unet", Wanted(engine="sized"))
    assert verify_bundle(packed.root, engine="sized").passed
    open_engine(packed, "unet", Wanted(engine="sized")).close()


def test_answers_travel_with_an_engine_that_was_checked_on_a_gpu_of_ours(
    opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sized = replace(sized_backend.register(monkeypatch), options=BuildOptions(sizes=((32, 16),)))
    record, _ = store.build(sized, opened, "unet")
    packed = pack(opened, tmp_path / "packed", engines=[record.key.id])
    assert packed.component("unet").golden is not None
    open_engine(packed, "unet", Wanted(engine="sized")).close()
    monkeypatch.setattr(sized_backend, "CARD", "another GPU")
    with pytest.raises(EngineError, match="not yet on this machine's another GPU"):
        open_engine(packed, "unet", Wanted(engine="sized"))


def test_a_packed_demo_draws_the_same_picture(demo_bundle: Path, tmp_path: Path, capfd) -> None:
    bundle = Path(shutil.copytree(demo_bundle, tmp_path / "bundle", copy_function=os.link))
    for name in ("text_encoder", "unet", "vae_decoder.ft-mse"):
        store.build(ort.BACKEND, Bundle.open(bundle), name)
    assert run(["pack", str(bundle), "--decoder", "ft-mse", "-o", str(tmp_path / "packed")]) == 0
    *_, summary = capfd.readouterr().out.splitlines()
    small, _, _, large, _ = summary.rsplit(": ", 1)[1].split()
    assert float(small) < 0.8 * float(large)
    options = {"num_inference_steps": 3, "seed": 4, "decoder": "ft-mse"}
    with Pipeline.open(bundle) as whole, Pipeline.open(tmp_path / "packed") as pipe:
        expected, drawn = whole.generate("a red star", **options), pipe.generate("a red star", **options)
        np.testing.assert_array_equal(drawn.latents, expected.latents)
        np.testing.assert_array_equal(np.asarray(drawn.images[0]), np.asarray(expected.images[0]))
        assert pipe.bundle.manifest.preview == whole.bundle.manifest.preview
        assert pipe.bundle.manifest.preview is not None
        assert drawn.facts[0]["engine"] == expected.facts[0]["engine"]
    assert run(["generate", str(tmp_path / "packed"), "a star", "--steps", "1", "-o", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (128, 128)
    for command in (["inspect"], ["inspect", "--engines"], ["verify"]):
        capfd.readouterr()
        assert run([*command, str(tmp_path / "packed")]) == 0
    assert "skipped: unet was packed without PyTorch's answers" in capfd.readouterr().out
    assert run(["pack", str(bundle), "-o", str(tmp_path / "packed")]) == 2
