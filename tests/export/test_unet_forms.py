"""UNets of fine-tunes: distilled with guidance (LCM), for inpainting, and v-prediction; against diffusers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from diffusers import EulerDiscreteScheduler, LatentConsistencyModelPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from latentrt.engines.manifest import UNET, ModelFacts, SchedulerFacts
from latentrt.export.architecture import METADATA_KEY, Facts, parse_facts, stated_prediction
from latentrt.export.component_writer import write_components
from latentrt.export.demo.pack import pack_demo
from latentrt.export.golden import PROMPT, PROMPTS
from latentrt.export.recorder import Recorder
from latentrt.export.source import load_source
from latentrt.export.trajectory import GUIDANCE_SCALES, SEED, STEPS, draw
from latentrt.export.wrappers import network_loaders, unet_network
from support.checkpoints import FACTS, TINY_UNET, tiny, without_averages
from support.errors import unit_scale_error

SCHEDULE = SchedulerFacts(beta_start=0.00085, beta_end=0.012, num_train_timesteps=1000, steps_offset=1)
FACTS_64 = ModelFacts(
    family="stable-diffusion-1",
    prediction_type="epsilon",
    latent_channels=4,
    vae_scale_factor=8,
    scaling_factor=0.18215,
    max_tokens=77,
    default_size=64,
    size_multiple=16,
)
TEXTS = {prompt: torch.randn(77, 24, generator=torch.Generator().manual_seed(i)) for i, prompt in enumerate(PROMPTS)}


def _unet(**changes: Any) -> UNet2DConditionModel:
    """Fresh weights that float16 holds."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**TINY_UNET | changes).eval().requires_grad_(False)
    unet.load_state_dict({key: tensor.half().float() for key, tensor in unet.state_dict().items()})
    return unet


def _checkpoint(folder: Path, unet: UNet2DConditionModel, guidance_key: str = "time_embed.cond_proj.weight") -> Path:
    """The tiny model with this UNet, in one file with one set of weights."""
    pack_demo(**tiny() | {"unet": unet, "unet_ema": unet}, folder=folder)
    file = folder / "demo.safetensors"
    tensors = without_averages(load_file(file))
    named = {key.replace("time_embed.cond_proj.weight", guidance_key): tensor for key, tensor in tensors.items()}
    save_file(named, file, metadata={METADATA_KEY: msgspec.json.encode(FACTS | {"default_size": 32}).decode()})
    return file


def test_a_distilled_unet_is_exported_with_its_guidance_input(tmp_path: Path) -> None:
    """Recorded by PyTorch through latentrt's wrapper, replayed in onnxruntime, and asked of diffusers' module."""
    unet = _unet(time_cond_proj_dim=256)
    model = load_source(_checkpoint(tmp_path, unet), vaes={})
    recorder = Recorder(model, tmp_path / "trajectory")
    recorder._texts = dict.fromkeys(("fp32", "fp16", "bf16"), TEXTS)  # what the text encoder would have left
    for part in ("onnx", "golden"):
        (tmp_path / part).mkdir()
    component = write_components({UNET: network_loaders(model)[UNET]}, recorder, tmp_path)[UNET]
    assert {spec.name: spec.shape for spec in component.inputs}["timestep_cond"] == ("rows", 256)
    assert component.max_abs_error < 1e-4
    for case in recorder.record(network_loaders(model)[UNET].load()):
        feeds = {name: torch.from_numpy(array) for name, array in case.inputs.items()}
        expected = unet(**feeds).sample.numpy()
        assert unit_scale_error(case.outputs["out_sample"], expected) < 1e-5
        unguided = unet(**feeds | {"timestep_cond": feeds["timestep_cond"].flip(1)}).sample.numpy()
        assert unit_scale_error(unguided, expected) > 1e-3  # or the input would play no part


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
def test_the_trajectories_of_a_distilled_unet_are_told_the_scale() -> None:
    unet = _unet(time_cond_proj_dim=256)
    for scale, drawn in zip(GUIDANCE_SCALES, draw(unet_network(unet), FACTS_64, SCHEDULE, TEXTS), strict=True):
        scheduler = EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        )
        scheduler.set_timesteps(STEPS)
        x = torch.randn(drawn.noise.shape, generator=torch.Generator().manual_seed(SEED)) * scheduler.init_noise_sigma
        told = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.tensor([scale - 1]), 256)
        for t in scheduler.timesteps:
            predicted = unet(scheduler.scale_model_input(x, t), t, TEXTS[PROMPT][None], timestep_cond=told).sample
            x = scheduler.step(predicted, t, x).prev_sample
        assert drawn.asked.guidance_scale == scale
        assert unit_scale_error(drawn.latents[-1].numpy(), x.numpy()) < 1e-4


@pytest.mark.parametrize("name", ["time_embed.cond_proj.weight", "time_embedding.cond_proj.weight"])
def test_both_names_of_the_guidance_layer_are_read(name: str, tmp_path: Path) -> None:
    unet = _unet(time_cond_proj_dim=32)
    stored = load_source(_checkpoint(tmp_path, unet, name), vaes={}).unet
    assert stored.config["time_cond_proj_dim"] == 32
    assert torch.equal(stored.load().time_embedding.cond_proj.weight, unet.time_embedding.cond_proj.weight)


def test_an_inpainting_unet_is_recognised_by_its_channels(tmp_path: Path) -> None:
    """Mask and masked picture are five channels more; there is no drawing from text alone, so no trajectory."""
    unet = _unet(in_channels=9)
    model = load_source(_checkpoint(tmp_path, unet), vaes={})
    recorder = Recorder(model, tmp_path / "trajectory")
    recorder._texts = dict.fromkeys(("fp32", "fp16", "bf16"), TEXTS)
    loaders = network_loaders(model)
    network = loaders[UNET].load()
    assert network.inputs[0].shape == ("rows", 9, "2*height", "2*width")
    for case in recorder.record(network):
        expected = unet(**{name: torch.from_numpy(array) for name, array in case.inputs.items()}).sample
        assert unit_scale_error(case.outputs["out_sample"], expected.numpy()) < 1e-5
    decoder = loaders["vae_decoder.kl-f8"].load()
    recorder.floor(decoder, recorder.record(decoder))
    assert not (tmp_path / "trajectory").exists()


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, "epsilon"),
        ({"modelspec.prediction_type": "v"}, "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ({METADATA_KEY: '{"prediction_type": "v_prediction"}'}, "v_prediction"),
        ({METADATA_KEY: "{}", "modelspec.prediction_type": "v"}, "epsilon"),
    ],
)
def test_what_a_file_says_its_unet_predicts(metadata: dict[str, str], expected: str) -> None:
    assert stated_prediction(metadata, parse_facts(metadata, "file") or Facts()) == expected


def test_what_the_unet_predicts_may_be_told(packed: Path) -> None:
    assert load_source(packed / "demo.safetensors", vaes={}).facts.prediction_type == "epsilon"
    told = load_source(packed / "demo.safetensors", vaes={}, prediction="v_prediction")
    assert told.facts.prediction_type == "v_prediction"
