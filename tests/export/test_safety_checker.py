"""The safety checker on disk and in a bundle, held against diffusers' class and its whole pipeline."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker, cosine_distance
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from torch import Tensor
from transformers import CLIPConfig

from latentrt import Pipeline
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import BundleError, CheckpointError
from latentrt.engines.golden import golden_cases
from latentrt.export.clip_preprocessor import CONCEPTS
from latentrt.export.compare import check_graph
from latentrt.export.golden import record
from latentrt.export.onnx_export import write_graph
from latentrt.export.safety_checker import find_safety_checker
from latentrt.export.safety_network import CONCEPT_TENSORS, safety_inputs, safety_loaders
from latentrt.export.trace import trace
from support.errors import unit_scale_error

PREPROCESSOR = "feature_extractor/preprocessor_config.json"


def answers(checker: StableDiffusionSafetyChecker, pixel_values: Tensor) -> np.ndarray:
    """The embeddings that diffusers' `forward` takes its cosines of."""
    with torch.no_grad():
        return checker.visual_projection(checker.vision_model(pixel_values)[1]).numpy()


@pytest.fixture
def folder(tiny_source: Path, tmp_path: Path) -> Path:
    """The two folders of a diffusers model that a safety checker needs, to be changed at will."""
    for name in ("safety_checker", "feature_extractor"):
        shutil.copytree(tiny_source / name, tmp_path / "model" / name)
    return tmp_path / "model"


def test_is_found_beside_the_model_or_where_the_user_says(folder: Path, tmp_path: Path) -> None:
    found = find_safety_checker(folder)
    assert found is not None
    assert found.provenance == {
        "safety_checker": "safety_checker/model.safetensors",
        "safety_checker.sha256": hashlib.sha256((folder / "safety_checker/model.safetensors").read_bytes()).hexdigest(),
    }
    assert (found.facts.shortest_edge, found.facts.image_size) == (224, 224)
    assert found.facts.image_mean == (0.48145466, 0.4578275, 0.40821073)
    for given in (folder, folder / "safety_checker"):
        again = find_safety_checker(tmp_path / "model.safetensors", given)
        assert again is not None
        assert (again.provenance, again.facts) == (found.provenance, found.facts)
    assert find_safety_checker(tmp_path / "model.safetensors") is None
    assert find_safety_checker(tmp_path) is None
    with pytest.raises(CheckpointError, match=r"--safety-checker .* holds no safety checker: expected a folder"):
        find_safety_checker(folder, tmp_path)


def _inner(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As CompVis published it: with an inner `vision_model.`, and the positions' indices."""
    plain = {name.replace("vision_model.vision_model.", "vision_model."): t for name, t in tensors.items()}
    named = {f"vision_model.{name}" if name.startswith("vision_model.") else name: t for name, t in plain.items()}
    return named | {"vision_model.vision_model.embeddings.position_ids": torch.arange(50)[None]}


def _outer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("vision_model.vision_model.", "vision_model."): t for name, t in tensors.items()}


@pytest.mark.parametrize("names", [_inner, _outer])
@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin", "model.fp16.safetensors"])
def test_every_form_loads_the_same_weights(folder: Path, names: Callable[..., dict], form: str) -> None:
    file = folder / "safety_checker/model.safetensors"
    half = form == "model.fp16.safetensors"
    tensors = names(load_tensors(file))
    expected = StableDiffusionSafetyChecker.from_pretrained(folder / "safety_checker", local_files_only=True)
    file.unlink()
    if half:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
        expected = expected.half().float()
    if form.endswith(".bin"):
        torch.save(tensors, file.with_name(form))
    else:
        save_tensors(tensors, file.with_name(form), metadata={"format": "pt"})
    found = find_safety_checker(folder)
    assert found is not None
    loaded = found.network.load()
    parameters = list(loaded.parameters())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in parameters)
    pairs = zip(expected.state_dict().items(), loaded.state_dict().items(), strict=True)
    assert all(name == other and torch.equal(tensor, found) for (name, tensor), (other, found) in pairs)
    assert torch.equal(loaded.vision_model.embeddings.position_ids, expected.vision_model.embeddings.position_ids)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"size": 224, "crop_size": 224}, (224, 224)),  # as transformers wrote it in 2022
        ({"size": {"shortest_edge": 256}, "use_square_size": False}, (256, 224)),
    ],
)
def test_preprocessing_is_read_in_old_and_new_words(folder: Path, changes: dict, facts: tuple[int, int]) -> None:
    edit(folder / PREPROCESSOR, **changes)
    found = find_safety_checker(folder)
    assert found is not None
    assert (found.facts.shortest_edge, found.facts.image_size) == facts


def test_without_a_preprocessor_it_is_clips(folder: Path) -> None:
    stated = find_safety_checker(folder)
    (folder / PREPROCESSOR).unlink()
    assumed = find_safety_checker(folder)
    assert stated is not None
    assert assumed is not None
    assert stated.facts == assumed.facts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resample": 2}, "is not CLIP's preprocessing: expected a bicubic resize"),
        ({"do_center_crop": False}, "is not CLIP's preprocessing: expected"),
        ({"crop_size": {"height": 224, "width": 200}}, "is not CLIP's preprocessing: expected"),
        ({"image_std": [0.2, 0.2, 0]}, "is not CLIP's preprocessing: expected"),
        ({"size": {"height": 224, "width": 224}}, r"is not CLIP's preprocessing: .* at `\$.size`"),
        ({"crop_size": 336}, "takes pictures of 224 pixels on a side; its preprocessor_config.json makes them 336"),
    ],
)
def test_other_preprocessing_is_refused(folder: Path, changes: dict, message: str) -> None:
    edit(folder / PREPROCESSOR, **changes)
    with pytest.raises(CheckpointError, match=message):
        find_safety_checker(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "concept_embeds"}, "1 key missing: concept_embeds"),
        (lambda t: t | {"more": torch.ones(1)}, "1 key unexpected: more"),
        (lambda t: t | {"concept_embeds": torch.ones(17, 8)}, r"expected float \(17, 16\), found float32 \(17, 8\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder: Path, change: Callable[..., dict], message: str) -> None:
    file = folder / "safety_checker/model.safetensors"
    save_tensors(change(load_tensors(file)), file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        find_safety_checker(folder)


def test_bundle_holds_the_checker_its_concepts_and_its_answers(
    tiny_bundle: Bundle, tiny_reference: StableDiffusionPipeline
) -> None:
    checker = tiny_reference.safety_checker
    stored = load_file(tiny_bundle.file(CONCEPTS))
    assert stored.keys() == set(CONCEPT_TENSORS)
    for name, tensor in stored.items():
        np.testing.assert_array_equal(tensor, getattr(checker, name).detach().numpy())
    facts, cases = tiny_bundle.manifest.safety_checker, golden_cases(tiny_bundle, "safety_checker")
    assert facts is not None
    assert facts.concepts == CONCEPTS
    assert sorted(len(case.inputs["pixel_values"]) for case in cases) == [1, 2]
    for case in cases:
        expected = answers(checker, torch.from_numpy(case.inputs["pixel_values"]))
        np.testing.assert_allclose(case.outputs["image_embeds"], expected, rtol=0, atol=1e-5)
    assert "safety_checker.sha256" in tiny_bundle.manifest.provenance


def test_graph_answers_as_pytorch_for_other_pictures_and_rows(
    tiny_bundle: Bundle, tiny_reference: StableDiffusionPipeline
) -> None:
    session = onnxruntime.InferenceSession(tiny_bundle.graph("safety_checker"), providers=["CPUExecutionProvider"])
    pixels = torch.randn(5, 3, 224, 224, generator=torch.Generator().manual_seed(9))
    [found] = session.run(["image_embeds"], {"pixel_values": pixels.numpy()})
    assert unit_scale_error(found, answers(tiny_reference.safety_checker, pixels)) < 1e-4


def _with_threshold(bundle: Path, threshold: float) -> None:
    """Every concept's threshold, in a bundle and in its hash."""
    file = bundle / CONCEPTS
    tensors = load_file(file)
    tensors["concept_embeds_weights"] = np.full(17, threshold, np.float32)
    save_file(tensors, file)
    content = json.loads((bundle / "bundle.json").read_text())
    content["files"][CONCEPTS] = {
        "size": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    (bundle / "bundle.json").write_text(json.dumps(content))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_flags_and_replaces_what_diffusers_pipeline_does(
    tiny_bundle: Bundle, tiny_reference: StableDiffusionPipeline, tmp_path: Path
) -> None:
    """From prompt to black picture; the threshold is put into the widest gap between the pictures' scores."""
    seeds = range(6)
    checker = tiny_reference.safety_checker

    def reference(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return tiny_reference("a red circle", num_inference_steps=2, generator=generator, height=64, width=64)

    scores = []
    for seed in seeds:
        image = reference(seed).images[0]
        pixels = tiny_reference.feature_extractor(image, return_tensors="pt").pixel_values
        embeds = torch.from_numpy(answers(checker, pixels))
        scores.append(float(cosine_distance(embeds, checker.concept_embeds.detach()).max()))
    ordered = np.sort(scores)
    gap = 1 + int(np.argmax(np.diff(ordered)[1:-1]))  # at least two on each side
    threshold = float(ordered[gap : gap + 2].mean())
    assert ordered[gap + 1] - ordered[gap] > 0.003  # rounding and float32 cannot reach across
    bundle = Path(shutil.copytree(tiny_bundle.root, tmp_path / "bundle"))
    _with_threshold(bundle, threshold)
    before = checker.concept_embeds_weights.data
    checker.concept_embeds_weights.data = torch.full((17,), threshold)
    try:
        expected = [reference(seed) for seed in seeds]
    finally:
        checker.concept_embeds_weights.data = before
    with Pipeline.open(bundle) as pipe:
        found = [pipe.generate("a red circle", num_inference_steps=2, seed=seed) for seed in seeds]
    assert [r.flagged for r in found] == [r.nsfw_content_detected for r in expected]
    assert 2 <= sum(r.flagged == [True] for r in found) <= 4
    for ours, theirs in zip(found, expected, strict=True):
        difference = np.asarray(ours.images[0], np.int16) - np.asarray(theirs.images[0], np.int16)
        assert np.abs(difference).max() <= 1
        assert np.asarray(ours.images[0]).any() != (ours.flagged == [True])


@pytest.mark.parametrize("half", ["facts", "component"])
def test_half_a_safety_checker_is_refused(tiny_bundle: Bundle, tmp_path: Path, half: str) -> None:
    """Taken for none, it would leave pictures unchecked."""
    content = json.loads((tiny_bundle.root / "bundle.json").read_text())
    if half == "facts":
        content["components"].pop("safety_checker")
    else:
        content["safety_checker"] = None
    (tmp_path / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=f"has the safety checker's {half} and not its"):
        Bundle.open(tmp_path)


@pytest.mark.full
def test_true_size_is_as_close_to_pytorch_as_every_component(tmp_path: Path) -> None:
    """CLIP ViT-L/14, 304 million parameters of fresh weights: 1.2 GB on disk, 3 GB of memory."""
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(vision_config=vision | {"patch_size": 14}, text_config=text, projection_dim=768)
    torch.manual_seed(0)
    checker = StableDiffusionSafetyChecker(config)
    assert sum(p.numel() for p in checker.parameters()) == 303_981_588
    checker.save_pretrained(tmp_path / "safety_checker")
    del checker
    found = find_safety_checker(tmp_path)
    assert found is not None
    for name in ("onnx", "bundle"):
        (tmp_path / name).mkdir()
    loader = safety_loaders(found, tmp_path / "bundle")["safety_checker"]
    network = loader.load()
    cases = record(network, safety_inputs(network))
    graph, weights = write_graph(network, trace(loader.outline()), tmp_path / "onnx")
    assert weights.stat().st_size > 1.2e9
    assert check_graph("safety_checker", graph, cases) < 1e-4
