"""A very small Stable Diffusion of fresh weights, in diffusers' form and as the bundle that is exported from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from latentrt.engines.bundle import Bundle
from latentrt.export.bundle_writer import write_bundle
from latentrt.export.demo.pack import pack_demo
from latentrt.export.source import SourceModel, load_source
from latentrt.export.vocabulary import clip_tokenizer
from support.checkpoints import tiny
from support.made_once import made_once

WIDTH = 32


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in the original layout, as the demo model is packed."""
    folder = tmp_path_factory.mktemp("packed")
    pack_demo(**tiny(), folder=folder)
    return folder


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder as diffusers writes it: a two-level UNet for 64x64 pictures and an f = 8 autoencoder."""
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=0.18215,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=49408
            )
        ),
        tokenizer=clip_tokenizer(),
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),  # attention on the way down and in the middle is enough
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        safety_checker=_safety_checker(),
        feature_extractor=CLIPImageProcessorPil(),
    )
    folder = tmp_path_factory.mktemp("tiny") / "source"
    pipeline.save_pretrained(folder)
    (folder / "LICENSE-MODEL.txt").write_text("the licence of the model\n")
    (folder / "MODEL_CARD.md").write_text("fresh weights\n")
    return folder


def _safety_checker() -> StableDiffusionSafetyChecker:
    """A small vision model of fresh weights; its thresholds are beyond every cosine, so that it flags nothing."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}  # not used
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16))
    for embeds, thresholds in (
        (checker.concept_embeds, checker.concept_embeds_weights),
        (checker.special_care_embeds, checker.special_care_embeds_weights),
    ):
        embeds.data, thresholds.data = torch.randn(embeds.shape), torch.full(thresholds.shape, 1.5)
    return checker


@pytest.fixture(scope="session")
def tiny_reference(tiny_source: Path) -> StableDiffusionPipeline:
    """The same model in diffusers' hands, none of its modules touched by latentrt."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_source, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.eval().requires_grad_(False)
    return pipeline


@pytest.fixture(scope="session")
def tiny_model(tiny_source: Path) -> SourceModel:
    return load_source(tiny_source, vaes={})


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model: SourceModel, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same weights in each process, so that one bundle serves all."""
    return Bundle.open(made_once(tmp_path_factory, "tiny-bundle", lambda folder: write_bundle(tiny_model, folder)))
