"""Adherence of anyone's pictures, the CLIP score, and bands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from latentrt.benchmarks.quality.adherence import adherence, held_out
from latentrt.benchmarks.quality.band import Band
from latentrt.engines.errors import InputError
from latentrt.export.demo.scenes import Scene, draw

PROMPTS = ["a red circle", "blue squares", "star"]  # of few letters: each is a token


def drawn(scene: Scene, seed: int) -> NDArray[np.uint8]:
    image = draw(scene, np.random.default_rng(seed)).transpose(1, 2, 0)
    return np.clip((image + 1) * 127.5, 0, 255).round().astype(np.uint8)


def test_pictures_of_the_scenes_adhere_and_those_of_others_do_not() -> None:
    scenes = held_out(12)
    pictures = [drawn(scene, seed) for seed, scene in enumerate(scenes)]
    assert adherence(pictures, scenes) == {"all": 1, "background": 1, "shape": 1, "colour": 1}
    assert adherence(pictures[1:] + pictures[:1], scenes)["all"] < 0.2
    half = pictures[:6] + [np.zeros_like(pictures[0])] * 6
    assert adherence(half, scenes)["all"] == 0.5


def test_a_sample_is_spread_over_all_captions() -> None:
    every = held_out()
    assert len(held_out(24)) == 24
    assert {scene.things[0].shape for scene in held_out(24)} == {scene.things[0].shape for scene in every}
    with pytest.raises(InputError, match=f"1 to {len(every)} captions"):
        held_out(0)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIPModel with random weights, CLIP's own tokenizer and image processor."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("clip")
    characters = [chr(c) for c in range(97, 123)]
    vocabulary = [*characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1, "pad_token_id": 0}
    config = CLIPConfig(
        text_config={**text, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": 16},
        vision_config={**text, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_the_clip_score_is_what_transformers_own_logits_say(clip_folder: Path) -> None:
    import torch
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor

    from latentrt.benchmarks.quality.clip_score import clip_score

    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 40, 3)).astype(np.uint8) for _ in PROMPTS]
    model, processor = CLIPModel.from_pretrained(clip_folder), CLIPProcessor.from_pretrained(clip_folder)
    images = [Image.fromarray(picture) for picture in pictures]
    with torch.inference_mode():
        inputs = processor(text=PROMPTS, images=images, return_tensors="pt", padding=True)
        cosines = model(**inputs).logits_per_image.diagonal() / model.logit_scale.exp()
    expected = float((100 * cosines).clamp(min=0).mean())
    assert expected > 0.1
    assert clip_score(pictures, PROMPTS, clip_folder) == pytest.approx(expected, rel=1e-5)
    assert clip_score(pictures[::-1], PROMPTS, clip_folder) != pytest.approx(expected, rel=1e-3)
    assert clip_score(pictures, ["a" * 500, *PROMPTS[1:]], clip_folder) >= 0  # cut, not refused


def test_a_folder_without_a_model_is_one_error(tmp_path: Path, clip_folder: Path) -> None:
    from latentrt.benchmarks.quality.clip_score import clip_score

    picture = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(InputError, match="holds no CLIP model"):
        clip_score([picture], ["a"], tmp_path)
    (tmp_path / "config.json").write_text((clip_folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot be opened"):
        clip_score([picture], ["a"], tmp_path)
    with pytest.raises(InputError, match="got 1 and 2"):
        clip_score([picture], ["a", "b"], clip_folder)


def test_a_band_has_two_sides() -> None:
    band = Band.parse("CLIP score=31.6,31.9")
    assert band == Band("CLIP score", 31.6, 31.9)
    assert band.check({"CLIP score": 31.6}) is None
    assert band.check({"CLIP score": 31.95}) == "CLIP score is 31.95, outside of 31.6 to 31.9"
    assert band.check({"CLIP score": 31.5}) is not None
    assert band.check({"CLIP score": float("nan")}) is not None
    assert "was not measured; measured: adherence" in (band.check({"adherence": 0.9}) or "")


@pytest.mark.parametrize("text", ["CLIP score", "=1,2", "FID=1", "FID=2,1", "FID=a,b", "FID=1,2,3", "FID=nan,1"])
def test_what_is_no_band_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="NAME=LOW,HIGH"):
        Band.parse(text)


def test_torch_is_imported_by_the_clip_score_alone() -> None:
    code = (
        "import sys; import latentrt.benchmarks.quality.adherence, latentrt.benchmarks.quality.band, "
        "latentrt.benchmarks.report, latentrt.benchmarks.trial.accuracy, latentrt.benchmarks.trial.golden; "
        "print({'torch', 'transformers', 'diffusers'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"
