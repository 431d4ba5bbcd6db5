"""Opening a bundle: any damage to any file, and any path that leads out, is refused by name before it is used."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from latentrt.engines import bundle as bundle_module
from latentrt.engines.bundle import Bundle, sha256
from latentrt.engines.errors import BundleError

Relist = Callable[[Path], None]
Edit = Callable[..., None]

COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8")
FILES = (
    "LICENSE-MODEL",
    "golden/text_encoder.safetensors",
    "golden/trajectory.safetensors",
    "golden/unet.safetensors",
    "golden/vae_decoder.kl-f8.safetensors",
    "golden/vae_encoder.safetensors",
    "onnx/text_encoder.onnx",
    "onnx/text_encoder.safetensors",
    "onnx/unet.onnx",
    "onnx/unet.safetensors",
    "onnx/vae_decoder.kl-f8.onnx",
    "onnx/vae_encoder.onnx",
    "tokenizer/token_embedding.safetensors",
    "tokenizer/tokenizer.json",
)


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def test_a_good_bundle_passes(tiny_original: Path) -> None:
    bundle = Bundle.open(str(tiny_original))
    assert tuple(sorted(bundle.manifest.files)) == FILES  # what the tests below go through
    bundle.verify_all()
    for name in COMPONENTS:
        assert bundle.graph(name) == tiny_original / "onnx" / f"{name}.onnx"
    assert bundle.decoder("kl-f8") is bundle.component("vae_decoder.kl-f8")
    assert bundle.hash == hashlib.sha256((tiny_original / "bundle.json").read_bytes()).hexdigest()


@pytest.mark.parametrize("path", FILES)
def test_one_flipped_bit_in_any_file_is_found(tiny_bundle: Path, path: str) -> None:
    size = (tiny_bundle / path).stat().st_size
    flip(tiny_bundle / path, random.Random(path).randrange(8 * size))
    bundle = Bundle.open(tiny_bundle)
    for check in (bundle.verify_all, lambda: bundle.file(path)):
        with pytest.raises(BundleError, match=f"{path} is altered: its SHA-256 is .*, bundle.json says .*again$"):
            check()


def test_a_flipped_bit_in_bundle_json_is_an_error_or_another_bundle(tiny_bundle: Path) -> None:
    original, manifest_file = Bundle.open(tiny_bundle), tiny_bundle / "bundle.json"
    content = manifest_file.read_bytes()
    rng = random.Random(0)
    opened = 0
    for at in range(0, len(content), 7):
        spoiled = bytearray(content)
        spoiled[at] ^= 1 << rng.randrange(8)
        manifest_file.write_bytes(spoiled)
        try:
            found = Bundle.open(tiny_bundle)
        except BundleError as error:
            assert "\n" not in str(error)  # noqa: PT017 - any other exception fails the test by itself
        else:
            opened += 1
            assert found.hash != original.hash
    assert 0 < opened < len(content)  # letters of a text and digits of a number can change into others


@pytest.mark.parametrize("path", FILES)
def test_a_missing_file_is_named(tiny_bundle: Path, path: str) -> None:
    (tiny_bundle / path).unlink()
    with pytest.raises(BundleError, match=f"{path} is missing; copy or export the bundle again"):
        Bundle.open(tiny_bundle).verify_all()


def longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def shorter(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def linked(file: Path) -> None:
    file.symlink_to(file.rename(file.with_suffix(".moved")))


def dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def behind_a_link(file: Path) -> None:
    moved = file.parent.rename(file.parent.parent.parent / "elsewhere")
    file.parent.symlink_to(moved, target_is_directory=True)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)  # opening it would wait for ever


SPOILED = {
    longer: r"has \d+ bytes, bundle.json says \d+",
    shorter: r"has \d+ bytes, bundle.json says \d+",
    linked: "is behind a symbolic link",
    dangling: "is behind a symbolic link",
    behind_a_link: "is behind a symbolic link",
    folder: "is missing",
    pipe: "is missing",
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_file_that_is_not_as_listed_is_refused(tiny_bundle: Path, spoil: Callable[[Path], None]) -> None:
    spoil(tiny_bundle / "onnx/unet.safetensors")
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(BundleError, match=f"onnx/unet.safetensors {SPOILED[spoil]}"):
        bundle.graph("unet")
    bundle.file("golden/unet.safetensors")  # the others are as they were


def test_a_listed_name_that_no_file_can_have_is_an_error_of_the_bundle(tiny_bundle: Path, edit: Edit) -> None:
    edit(tiny_bundle, "files", "x" * 300, to={"size": 0, "sha256": "0" * 64})
    with pytest.raises(BundleError, match=r"cannot read .*: File name too long"):
        Bundle.open(tiny_bundle).verify_all()


def no_folder(root: Path) -> None:
    shutil.rmtree(root)


def no_manifest(root: Path) -> None:
    (root / "bundle.json").unlink()


def linked_manifest(root: Path) -> None:
    linked(root / "bundle.json")


def plain_file(root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_folder, "there is no bundle at .*latentrt export SOURCE -o"),
        (no_manifest, "is not a bundle: it has no file bundle.json"),
        (linked_manifest, "is not a bundle"),
        (plain_file, "is not a bundle"),
    ],
)
def test_what_is_no_bundle(tiny_bundle: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(tiny_bundle)
    with pytest.raises(BundleError, match=message):
        Bundle.open(tiny_bundle)


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000], ids=["here", "NUL", "long"])
def test_odd_paths_are_no_bundle(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError):
        Bundle.open(path)


def test_names_that_the_bundle_does_not_hold(opened: Bundle) -> None:
    with pytest.raises(BundleError, match="has no component 'safety_checker'; it has text_encoder, unet, "):
        opened.component("safety_checker")
    with pytest.raises(BundleError, match=r"has no component 'vae_decoder\.ft-mse'"):
        opened.decoder("ft-mse")
    for path in ("bundle.json", "../x", "NOTICE"):
        with pytest.raises(BundleError, match=r"is not listed in bundle\.json"):
            opened.file(path)


def test_a_file_is_hashed_once(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr(bundle_module, "sha256", lambda file: hashed.append(file) or sha256(file))
    for _ in range(2):
        opened.graph("unet")
    assert len(hashed) == 2  # the graph and its weights


def test_an_altered_graph_is_not_parsed(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "external_locations", lambda *_: pytest.fail("parsed before the check"))
    flip(tiny_bundle / "onnx/unet.onnx", 80)
    with pytest.raises(BundleError, match=r"onnx/unet\.onnx is altered"):
        Bundle.open(tiny_bundle).graph("unet")


def test_a_graph_beyond_what_protobuf_holds_is_not_read(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "_MAX_GRAPH_BYTES", 100)
    with pytest.raises(BundleError, match="larger than an ONNX graph can be"):
        opened.graph("unet")


def point_to(bundle: Path, location: str) -> None:
    """Let the UNet's first weight lie at `location`."""
    graph = bundle / "onnx/unet.onnx"
    model = onnx.load(graph, load_external_data=False)
    next(e for e in model.graph.initializer[0].external_data if e.key == "location").value = location
    graph.write_bytes(model.SerializeToString())


OUTSIDE = ["../../secret", "/etc/passwd", "secret", "text_encoder.safetensors", "unet.onnx", "../LICENSE-MODEL"]
OUTSIDE += ["../onnx/unet.safetensors", "", ".", "a\0b", "x" * 5000, "*/_ORT_MEM_ADDR_/*", "sub/../unet.safetensors"]


@pytest.mark.parametrize("location", OUTSIDE)
def test_weights_that_are_not_the_components_own_are_refused(tiny_bundle: Path, relist: Relist, location: str) -> None:
    point_to(tiny_bundle, location)
    relist(tiny_bundle)  # every hash is right: the bundle was made so
    with pytest.raises(BundleError) as caught:
        Bundle.open(tiny_bundle).graph("unet")
    assert f"takes weights from {location!r}, which bundle.json does not list" in str(caught.value)


def test_another_spelling_of_the_same_file_is_taken(tiny_bundle: Path, relist: Relist) -> None:
    point_to(tiny_bundle, "./unet.safetensors")
    relist(tiny_bundle)
    Bundle.open(tiny_bundle).graph("unet")


def test_two_components_may_share_files(tiny_bundle: Path, edit: Edit) -> None:
    """Nothing is gained by it, and nothing is lost: each is checked with what it states."""
    edit(tiny_bundle, "components", "vae_encoder", "golden", to="golden/unet.safetensors")
    edit(tiny_bundle, "components", "unet", "weights", to=["onnx/unet.safetensors", "onnx/unet.onnx"])
    bundle = Bundle.open(tiny_bundle)
    assert bundle.graph("unet").name == "unet.onnx"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"cannot read .*gone: No such file"):
        sha256(tmp_path / "gone")
    assert sha256(Path(__file__)) == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
