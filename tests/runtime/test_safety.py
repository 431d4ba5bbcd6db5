"""The decision is diffusers' own, also where it hangs on the last bit; and what the pipeline makes of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion import safety_checker as reference
from PIL import Image
from safetensors.numpy import save
from transformers import CLIPConfig

from latentrt import Pipeline, Request
from latentrt.cli import run
from latentrt.commands.protection import missing_protection
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import BundleError, EngineError, NanPictureError
from latentrt.engines.licence import OPENRAIL_M
from latentrt.engines.manifest import Licence, SafetyFacts
from latentrt.runtime.pipeline import Drawing
from latentrt.runtime.safety import Concepts, SafetyWarning, is_flagged, read_concepts

WIDTH = 32


class Embeddings(torch.nn.Module):
    """In place of the vision model: what it is fed is what it answers."""

    def forward(self, features: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, features


def diffusers_checker(concepts: Concepts) -> reference.StableDiffusionSafetyChecker:
    """Diffusers' class, with a projection that changes nothing."""
    width = concepts.concept_embeds.shape[1]
    vision = {"hidden_size": width, "intermediate_size": 4, "num_hidden_layers": 0, "num_attention_heads": 1}
    text = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 0, "num_attention_heads": 1}
    config = CLIPConfig(vision_config=vision | {"image_size": 32}, text_config=text, projection_dim=width)
    checker = reference.StableDiffusionSafetyChecker(config)
    checker.vision_model = Embeddings()
    checker.visual_projection = torch.nn.Identity()
    for name in Concepts.__dataclass_fields__:
        getattr(checker, name).data = torch.from_numpy(getattr(concepts, name))
    return checker


def diffusers_flags(concepts: Concepts, features: np.ndarray) -> np.ndarray:
    images = np.ones((len(features), 1, 1, 3), np.float32)
    _, flagged = diffusers_checker(concepts).forward(torch.from_numpy(features), images)
    assert [not image.any() for image in images] == flagged  # diffusers has blackened what it flagged
    return np.array(flagged)


def draw_concepts(rng: np.random.Generator, low: float, high: float) -> Concepts:
    vectors = [rng.standard_normal((n, WIDTH)).astype(np.float32) for n in (17, 3)]
    thresholds = [rng.uniform(low, high, n).astype(np.float32) for n in (17, 3)]
    return Concepts(vectors[0], thresholds[0], vectors[1], thresholds[1])


def unit(vectors: np.ndarray) -> np.ndarray:
    exact = vectors.astype(np.float64)
    return exact / np.linalg.norm(exact, axis=1, keepdims=True)


def vectors_near(rng: np.random.Generator, concepts: Concepts, count: int, distance: float) -> np.ndarray:
    """Embeddings whose cosine with a concept is its threshold, give or take `distance`: (count, WIDTH) float32.

    Half of them are also near a special-care concept, so that the 0.01 decides.
    """
    which, care = rng.integers(0, 17, count), rng.integers(0, 3, count)
    basis = np.stack([unit(concepts.concept_embeds)[which], unit(concepts.special_care_embeds)[care]], axis=1)
    noise = rng.standard_normal((count, WIDTH))
    wanted = np.stack([concepts.concept_embeds_weights[which], concepts.special_care_embeds_weights[care]], axis=1)
    wanted = wanted + rng.uniform(-distance, distance, (count, 2))
    wanted[:, 1] -= np.where(rng.random(count) < 0.5, 0.1, 0.0)
    gram = basis @ basis.transpose(0, 2, 1)
    noise -= np.einsum(
        "nk,nkw->nw", np.linalg.solve(gram, np.einsum("nkw,nw->nk", basis, noise)[..., None])[..., 0], basis
    )
    inside = np.einsum("nk,nkw->nw", np.linalg.solve(gram, wanted[..., None])[..., 0], basis)
    rest = np.sqrt(np.maximum(0.0, 1 - (inside**2).sum(axis=1, keepdims=True)))
    return ((inside + rest * unit(noise)) * rng.uniform(5, 15, (count, 1))).astype(np.float32)


def hangs_on_float32(features: np.ndarray, concepts: Concepts) -> np.ndarray:
    """Where an exact score is within two units in the last place of the half thousandth that rounding decides at.

    There torch's own answer depends on how many rows it multiplies at once.
    """
    ties = np.array([0.0005, -0.0095])[:, None, None]  # without and with the 0.01
    exact = unit(features) @ unit(concepts.concept_embeds).T - concepts.concept_embeds_weights.astype(np.float64)
    care = unit(features) @ unit(concepts.special_care_embeds).T - concepts.special_care_embeds_weights.astype(float)
    near = (np.abs(exact - ties) < 1.2e-7).any(axis=(0, 2))
    return near | (np.abs(care - 0.0005) < 1.2e-7).any(axis=1)


@pytest.mark.parametrize("distance", [0.02, 0.002])
def test_decides_as_diffusers_near_the_thresholds(distance: float) -> None:
    rng = np.random.default_rng(int(distance * 1e4))
    concepts = draw_concepts(rng, 0.55, 0.65)  # so high that a vector near one concept is far from the others
    features = vectors_near(rng, concepts, 3000, distance)
    features = features[~hangs_on_float32(features, concepts)]
    assert len(features) >= 2997
    expected = diffusers_flags(concepts, features)
    assert 0.2 < expected.mean() < 0.8  # both answers are common
    np.testing.assert_array_equal(is_flagged(features, concepts), expected)


def test_decides_as_diffusers_on_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of half a thousandth, where float32 rounds to even, and their neighbours; every cosine is given."""
    rng = np.random.default_rng(3)
    count = 2000
    thresholds, care_thresholds = (rng.uniform(0.15, 0.3, n).astype(np.float32) for n in (17, 3))
    cosines = np.full((count, 17), -1, np.float32)
    care = np.full((count, 3), -1, np.float32)
    which, cared = rng.integers(0, 17, count), rng.random(count) < 0.5
    around = rng.integers(-3, 4, count) * np.float32(2) ** -26  # up to three neighbours of a number near 0.2
    edge = np.where(cared, -0.0095, 0.0005).astype(np.float32)
    cosines[np.arange(count), which] = thresholds[which] + edge + around.astype(np.float32)
    near = care_thresholds[0] + np.float32(0.0005) + around.astype(np.float32)
    care[:, 0] = np.where(rng.random(count) < 0.3, near, np.where(cared, 1, -1))
    answers = iter([care, cosines])
    monkeypatch.setattr(reference, "cosine_distance", lambda *_: torch.from_numpy(next(answers)))
    concepts = Concepts(
        np.eye(17, WIDTH, dtype=np.float32), thresholds, np.eye(3, WIDTH, dtype=np.float32), care_thresholds
    )
    expected = diffusers_flags(concepts, np.ones((count, WIDTH), np.float32))
    assert 0.2 < expected.mean() < 0.8
    found = iter([care - care_thresholds, cosines - thresholds])
    monkeypatch.setattr("latentrt.runtime.safety._scores", lambda *_: next(found))
    np.testing.assert_array_equal(is_flagged(np.ones((count, WIDTH), np.float32), concepts), expected)


@pytest.mark.parametrize("features", [np.zeros((2, WIDTH), np.float32), np.full((1, WIDTH), 1e-20, np.float32)])
def test_decides_as_diffusers_on_empty_embeddings(features: np.ndarray) -> None:
    concepts = draw_concepts(np.random.default_rng(0), -0.3, -0.2)  # a cosine of 0 is above them
    np.testing.assert_array_equal(is_flagged(features, concepts), diffusers_flags(concepts, features))


Grafted = Callable[..., Path]


@pytest.fixture
def graft(demo_bundle: Path, tmp_path: Path) -> Grafted:
    """`graft(**tensors)`: the demo bundle with a safety checker, for the fake engine, and with these concepts."""

    def build(**changed: np.ndarray) -> Path:
        bundle = tmp_path / "bundle"
        shutil.copytree(demo_bundle, bundle, copy_function=os.link)
        content = json.loads((bundle / "bundle.json").read_bytes())
        concepts = draw_concepts(np.random.default_rng(1), 0.4, 0.6)
        tensors = {name: getattr(concepts, name) for name in Concepts.__dataclass_fields__} | changed
        for place, data in (("concepts", save(tensors)), ("checker.onnx", b""), ("checker.golden", b"")):
            (bundle / place).write_bytes(data)
            content["files"][place] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        facts = {"shortest_edge": 224, "image_size": 224, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
        content["safety_checker"] = {"concepts": "concepts"} | facts
        content["components"]["safety_checker"] = {
            "graph": "checker.onnx",
            "weights": [],
            "inputs": [{"name": "pixel_values", "dtype": "float32", "shape": ["rows", 3, 224, 224]}],
            "outputs": [{"name": "image_embeds", "dtype": "float32", "shape": ["rows", WIDTH]}],
            "golden": "checker.golden",
            "max_abs_error": 0.0,
        }
        (bundle / "bundle.json").unlink()  # the demo's own file is linked
        (bundle / "bundle.json").write_text(json.dumps(content))
        return bundle

    return build


def wave(brightness: float) -> np.ndarray:
    """What the fake engine answers for a picture of this mean, after normalisation."""
    return np.sin(brightness + np.arange(WIDTH, dtype=np.float32) * np.float32(0.37)).astype(np.float32)


ALL = {"concept_embeds_weights": np.full(17, -1.5, np.float32)}  # below every cosine: everything is flagged
NONE = {"concept_embeds_weights": np.full(17, 1.5, np.float32)}


def test_a_flagged_picture_is_black_and_says_so(graft: Grafted) -> None:
    with Pipeline.open(graft(**ALL), engine="fake") as pipe:
        result = pipe.generate("a red star", num_inference_steps=2, num_images_per_prompt=2)
    assert result.flagged == [True, True]
    for image, facts in zip(result.images, result.facts, strict=True):
        assert image.size == (128, 128)
        assert not np.asarray(image).any()
        assert facts["safety_checker"] == "flagged: replaced by a black picture"
        assert "safety_checker=" in facts["engine"]


def test_only_the_flagged_picture_of_a_batch_is_replaced(graft: Grafted) -> None:
    light = np.full((3, 64, 64), 0.9, np.float32)  # 242 of 255
    brightness = (242 / 255 - 0.5) / 0.25
    concepts = np.stack([wave(brightness if i == 5 else -9.0) for i in range(17)])
    thresholds = np.where(np.arange(17) == 5, 0.999, 1.5).astype(np.float32)
    decoded = np.stack([np.zeros_like(light), light, -light])
    with Pipeline.open(graft(concept_embeds=concepts, concept_embeds_weights=thresholds), engine="fake") as pipe:
        assert pipe.stages.safety_checker is not None
        replaced, flagged = pipe.stages.safety_checker.replace_flagged(decoded)
    assert flagged == [False, True, False]
    np.testing.assert_array_equal(replaced[::2], decoded[::2])
    assert (replaced[1] == -1).all()
    assert (light == np.float32(0.9)).all()  # the caller's array is its own


def test_a_picture_that_passes_is_the_one_drawn_without_a_checker(graft: Grafted, demo_bundle: Path) -> None:
    options = {"num_inference_steps": 2, "seed": 4}
    with Pipeline.open(demo_bundle, engine="fake") as without, Pipeline.open(graft(**NONE), engine="fake") as pipe:
        expected, result = without.generate("a red star", **options), pipe.generate("a red star", **options)
    assert (expected.flagged, result.flagged) == (None, [False])
    assert expected.facts[0]["safety_checker"] == "none in the bundle"
    assert result.facts[0]["safety_checker"] == "passed"
    np.testing.assert_array_equal(np.asarray(expected.images[0]), np.asarray(result.images[0]))


def test_switched_off_says_what_the_licence_asks(graft: Grafted) -> None:
    bundle = graft(**ALL)
    with pytest.warns(SafetyWarning, match=r"pictures are not checked: the model's licence \(Apache-2.0\)") as caught:
        pipe = Pipeline.open(bundle, engine="fake", safety_checker=False)
    assert caught[0].filename == __file__
    with pipe:
        result = pipe.generate("a red star", num_inference_steps=1)
    assert (result.flagged, result.facts[0]["safety_checker"]) == (None, "off")
    assert np.asarray(result.images[0]).any()


def _fill(drawing: Drawing, value: float) -> None:
    assert drawing.job.latents is not None
    drawing.job.latents[-1, 0, 0, 0] = value


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_latents_are_an_error_of_their_own_and_not_flagged(graft: Grafted, value: float) -> None:
    with Pipeline.open(graft(**ALL), engine="fake") as pipe:
        drawing = pipe.start(Request(prompt="a red star", num_inference_steps=1, num_images_per_prompt=2))
        while pipe.step():
            pass
        _fill(drawing, value)
        with pytest.raises(NanPictureError, match=r"^picture 2 of 2: denoising gave NaN or infinity: no picture"):
            pipe.finish(drawing)


def test_a_nan_picture_is_an_error_of_its_own_and_not_flagged(graft: Grafted, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pipeline.open(graft(**ALL), engine="fake") as pipe:
        decode = pipe.decode
        monkeypatch.setattr(pipe, "decode", lambda *words: decode(*words) * np.float32(np.nan))
        with pytest.raises(NanPictureError, match=r"^the decoder gave NaN or infinity: no picture"):
            pipe.generate("a red star", num_inference_steps=1)


def test_nan_of_the_checker_is_an_error_and_no_picture(graft: Grafted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison with NaN is false, so that it would pass for a picture that shows nothing."""
    with Pipeline.open(graft(**NONE), engine="fake") as pipe:
        assert pipe.stages.safety_checker is not None
        nan = {"image_embeds": np.full((1, WIDTH), np.nan, np.float32)}
        monkeypatch.setattr(pipe.stages.safety_checker.engine, "run", lambda _: nan)
        with pytest.raises(EngineError, match="the safety checker gave NaN") as caught:
            pipe.generate("a red star", num_inference_steps=1)
    assert not isinstance(caught.value, NanPictureError)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"concept_embeds": np.ones((17, 5), np.float32)}, r"concept_embeds is \(17, 5\) .* expected \(n, 32\)"),
        ({"special_care_embeds_weights": np.ones(2, np.float32)}, r"special_care_embeds is \(3, 32\) .*\(2,\)"),
        ({"concept_embeds_weights": np.full(17, np.nan, np.float32)}, "expected finite numbers of float32"),
        ({"concept_embeds": np.ones((17, WIDTH), np.float64)}, "concept_embeds is float64"),
        ({"other": np.ones(1, np.float32)}, "holds .*other.*; expected"),
        (
            {"concept_embeds": np.ones((0, WIDTH), np.float32), "concept_embeds_weights": np.ones(0, np.float32)},
            r"\(0,",
        ),
    ],
)
def test_damaged_concepts_are_named(graft: Grafted, changed: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Pipeline.open(graft(**changed), engine="fake")


def test_a_file_that_holds_no_tensors_is_named(graft: Grafted) -> None:
    bundle = Bundle.open(graft())
    facts = SafetyFacts(
        concepts="tokenizer/tokenizer.json", shortest_edge=1, image_size=1, image_mean=(0, 0, 0), image_std=(1, 1, 1)
    )
    with pytest.raises(BundleError, match=r"tokenizer.json is not a safetensors file"):
        read_concepts(bundle, facts)


def test_the_command_line_says_which_picture_is_flagged(graft: Grafted, tmp_path: Path, capfd) -> None:
    words = ["generate", str(graft(**ALL)), "a red star", "--steps", "1", "--engine", "fake"]
    assert run([*words, "-n", "2", "-o", str(tmp_path / "out.png")]) == 0
    output = capfd.readouterr()
    assert output.out.split() == [str(tmp_path / "out-1.png"), str(tmp_path / "out-2.png")]
    assert [line for line in output.err.splitlines() if line.startswith("flagged: ")] == [
        f"flagged: {tmp_path}/out-{i}.png is black: the safety checker found unsafe content in the picture; "
        "try another prompt or seed"
        for i in (1, 2)
    ]
    assert not np.asarray(Image.open(tmp_path / "out-2.png")).any()
    assert run(["inspect", str(tmp_path / "out-2.png")]) == 0
    assert "flagged: replaced by a black picture" in capfd.readouterr().out


def test_the_command_line_says_what_the_licence_asks(graft: Grafted, tmp_path: Path) -> None:
    """In a process of its own, where warnings are shown as the user sees them."""
    place = str(tmp_path / "out.png")
    options = ["--steps", "1", "--engine", "fake", "--no-safety-checker", "-o", place]
    words = ["generate", str(graft(**ALL)), "a star", *options]
    code = "import sys; from latentrt.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{place}\n"), done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("warning: the safety checker is off, pictures are not checked: the model's licence")
    assert line.endswith("do not show unchecked pictures to the public")


def test_inspect_says_whether_pictures_are_checked_and_shows_the_notice(
    graft: Grafted, demo_bundle: Path, capfd
) -> None:
    assert run(["inspect", str(graft())]) == 0
    checked = capfd.readouterr().out
    assert "safety checker   on unless switched off; looks at 224x224 pixels" in checked
    assert run(["inspect", str(demo_bundle)]) == 0
    plain = capfd.readouterr().out
    assert "safety checker   none: pictures of this bundle are not checked" in plain
    for text in (checked, plain):
        assert "USE_RESTRICTIONS:\n  None beyond the licence." in text
        assert "NOTICE:\n  The latentrt demo model" in text
        assert "\n  Changes made by latentrt export\n" in text


@pytest.mark.parametrize("checked", [True, False])
def test_openrail_asks_for_what_an_export_lacks(graft: Grafted, checked: bool) -> None:
    manifest = Bundle.open(graft()).manifest
    licence = Licence(name=OPENRAIL_M, files=("NOTICE",), missing=("LICENSE-MODEL", "USE_RESTRICTIONS"))
    facts = manifest.safety_checker if checked else None
    notes = list(missing_protection(msgspec.structs.replace(manifest, licence=licence, safety_checker=facts)))
    assert notes[0].startswith(
        "LICENSE-MODEL and USE_RESTRICTIONS missing: not beside the checkpoint; export with --license"
    )
    assert [("no safety checker" in note, "--safety-checker PATH" in note) for note in notes[1:]] == [(True, True)][
        checked:
    ]
    assert list(missing_protection(manifest)) == []


def test_a_network_for_pictures_of_another_size_is_refused(graft: Grafted) -> None:
    bundle = graft()
    content = json.loads((bundle / "bundle.json").read_bytes())
    content["safety_checker"]["image_size"] = 336
    (bundle / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(
        BundleError, match=r"takes pixel_values .*224, 224\); expected one input of \(rows, 3, 336, 336\)"
    ):
        Bundle.open(bundle)
