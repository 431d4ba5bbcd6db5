"""What is recorded must be what diffusers and transformers answer, at the sizes and row counts that were promised."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from latentrt.engines.bundle import Bundle
from latentrt.engines.golden import golden_cases, unit_scale_error
from latentrt.engines.tensor import check_feeds, resolve_shape
from latentrt.export.golden import MAX_SIDE, sizes
from latentrt.export.source import SourceModel
from latentrt.export.trajectory import METADATA_KEY

COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8")
ROUNDING = 1e-5  # same weights and arithmetic, but another attention code: fp32 rounding over some 50 layers


@pytest.mark.parametrize("component", COMPONENTS)
def test_cases_fit_the_component(tiny_bundle: Bundle, component: str) -> None:
    stated, rows, shapes = tiny_bundle.component(component), set(), set()
    for case in golden_cases(tiny_bundle, component):
        bound = check_feeds(component, stated.inputs, case.inputs)
        for spec in stated.outputs:
            assert case.outputs[spec.name].shape == resolve_shape(spec.shape, bound)
            assert case.outputs[spec.name].dtype == np.float32
        rows.add(bound["rows"])
        shapes.add((bound.get("height"), bound.get("width")))
    assert len(rows) == 2
    if component != "text_encoder":
        assert len(shapes) == 2
        assert any(height != width for height, width in shapes)


def test_timesteps_differ_between_cases_and_rows(tiny_bundle: Bundle) -> None:
    timesteps = [case.inputs["timestep"] for case in golden_cases(tiny_bundle, "unet")]
    assert len({row[0] for row in timesteps}) >= 4
    assert any(len(set(row.tolist())) > 1 for row in timesteps)


def text_encoder_answers(reference: StableDiffusionPipeline, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
    """Transformers' hidden states for the ids whose vectors these are, the last and those before it, normalised."""
    table = reference.text_encoder.get_input_embeddings().weight
    ids = torch.cdist(vectors.flatten(0, 1), table).argmin(dim=1).reshape(vectors.shape[:2])
    assert torch.equal(table[ids], vectors)
    found = reference.text_encoder(ids, output_hidden_states=True)
    earlier = reference.text_encoder.final_layer_norm(torch.stack(found.hidden_states[:-1], dim=1))
    return {"last_hidden_state": found.last_hidden_state, "hidden_states": earlier}


@pytest.mark.parametrize("component", COMPONENTS)
def test_recorded_answers_are_those_of_diffusers(
    tiny_bundle: Bundle, tiny_reference: StableDiffusionPipeline, component: str
) -> None:
    for case in golden_cases(tiny_bundle, component):
        feeds = {name: torch.from_numpy(array) for name, array in case.inputs.items()}
        with torch.no_grad():
            if component == "text_encoder":
                expected = text_encoder_answers(tiny_reference, feeds["inputs_embeds"])
            elif component == "unet":
                expected = {"out_sample": tiny_reference.unet(**feeds).sample}
            elif component == "vae_encoder":
                posterior = tiny_reference.vae.encode(feeds["sample"]).latent_dist
                expected = {"latent_mean": posterior.mean, "latent_std": posterior.std}
            else:
                expected = {"sample": tiny_reference.vae.decode(feeds["latent_sample"]).sample}
        assert expected.keys() == case.outputs.keys()
        for name, tensor in expected.items():
            assert unit_scale_error(case.outputs[name], tensor.numpy()) < ROUNDING


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_trajectory_is_that_of_the_diffusers_pipeline(
    tiny_bundle: Bundle, tiny_reference: StableDiffusionPipeline
) -> None:
    """The whole StableDiffusionPipeline, told only what the record says of itself."""
    with safe_open(tiny_bundle.file(tiny_bundle.manifest.trajectory), "np") as file:
        facts = json.loads(file.metadata()[METADATA_KEY])
        noise, latents, image = (file.get_tensor(name) for name in ("noise", "latents", "image"))
    assert facts["sampler"] == "euler"
    steps: list[np.ndarray] = []

    def keep(
        pipeline: object, step: int, timestep: object, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        steps.append(tensors["latents"].numpy())
        return tensors

    drawn = tiny_reference(
        facts["prompt"],
        negative_prompt=facts["negative_prompt"],
        num_inference_steps=facts["steps"],
        guidance_scale=facts["guidance_scale"],
        generator=torch.Generator().manual_seed(facts["seed"]),
        height=image.shape[2],
        width=image.shape[3],
        output_type="pt",
        callback_on_step_end=keep,
    ).images
    seeded = torch.randn(noise.shape, generator=torch.Generator().manual_seed(facts["seed"]))
    np.testing.assert_array_equal(noise, seeded.numpy())
    assert latents.shape == (facts["steps"], *noise.shape)
    for recorded, expected in zip(latents, steps, strict=True):
        # guidance of 7.5 multiplies the difference of two roundings, over four steps
        assert unit_scale_error(recorded, expected) < 10 * ROUNDING
    assert np.abs((image / 2 + 0.5).clip(0, 1) - drawn.numpy()).max() < 10 * ROUNDING


@pytest.mark.parametrize(
    ("default_size", "expected"),
    [
        (512, ((256, 256), (128, 144))),
        (128, ((128, 128), (64, 80))),
        (16, ((16, 16), (16, 32))),
        (72, ((64, 64), (32, 48))),
    ],
)
def test_sizes(tiny_model: SourceModel, default_size: int, expected: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """The larger is the model's own up to 256; both are multiples of what the model takes, here 16."""
    found = sizes(msgspec.structs.replace(tiny_model.facts, default_size=default_size))
    assert found == expected
    assert found[0][0] <= MAX_SIDE
