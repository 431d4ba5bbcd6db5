"""What is recorded must be what diffusers and transformers answer, at the sizes and row counts that were promised."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import InputError
from latentrt.engines.golden import golden_cases
from latentrt.engines.tensor import check_feeds, resolve_shape
from latentrt.engines.trajectory import load_trajectories
from latentrt.export.golden import MAX_SIDE, NOTHING_FURTHER, PROMPTS, Further, case_inputs, sizes
from latentrt.export.recorder import Recorder
from latentrt.export.source import SourceModel
from latentrt.export.wrappers import network_loaders
from support.errors import unit_scale_error

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
@pytest.mark.parametrize("index", [0, 1])
def test_trajectory_is_that_of_the_diffusers_pipeline(
    tiny_bundle: Bundle, tiny_reference: StableDiffusionPipeline, index: int
) -> None:
    """The whole StableDiffusionPipeline, told only what the record says of itself."""
    recorded = load_trajectories(tiny_bundle, tiny_bundle.manifest.trajectory)
    facts = recorded[index].facts
    assert (facts.sampler, facts.steps, len(recorded)) == ("euler", 8, 2)
    noise, latents, image = recorded[index].noise, recorded[index].latents, recorded[index].image
    steps: list[np.ndarray] = []

    def keep(
        pipeline: object, step: int, timestep: object, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        steps.append(tensors["latents"].numpy())
        return tensors

    drawn = tiny_reference(
        facts.prompt,
        negative_prompt=facts.negative_prompt,
        num_inference_steps=facts.steps,
        guidance_scale=facts.guidance_scale,
        generator=torch.Generator().manual_seed(facts.seed),
        height=image.shape[2],
        width=image.shape[3],
        output_type="pt",
        callback_on_step_end=keep,
    ).images
    seeded = torch.randn(noise.shape, generator=torch.Generator().manual_seed(facts.seed))
    np.testing.assert_array_equal(noise, seeded.numpy())
    assert latents.shape == (facts.steps, *noise.shape)
    for recorded_step, expected in zip(latents, steps, strict=True):
        # guidance of 7.5 multiplies the difference of two roundings, over eight steps
        assert unit_scale_error(recorded_step, expected) < 10 * ROUNDING
    assert np.abs((image / 2 + 0.5).clip(0, 1) - drawn.numpy()).max() < 10 * ROUNDING


def case_names(model: SourceModel, name: str, default_size: int, further: Further = NOTHING_FURTHER) -> set[str]:
    facts = msgspec.structs.replace(model.facts, default_size=default_size)
    network = network_loaders(model)[name].load()
    texts = {prompt: torch.zeros(77, 32) for prompt in PROMPTS}
    return set(case_inputs(network, facts, model.tokenizer, texts, further))


def test_a_model_for_large_pictures_is_recorded_at_its_own_size_once(tiny_model: SourceModel) -> None:
    """A full-size UNet takes 10 s for two rows at 512x512: one call of one row there, the others at 256 and below."""
    usual = {"rows2-144x128-t999", "rows2-144x128-t1", "rows2-256x256-t500", "rows3-144x128-mixed"}
    assert case_names(tiny_model, "unet", 512) == usual | {"rows1-512x512-t500"}
    assert case_names(tiny_model, "unet", 256) == usual
    assert case_names(tiny_model, "vae_decoder.kl-f8", 512) == {"rows1-512x512", "rows2-144x128"}


def test_sizes_and_rows_that_were_asked_for_are_recorded_too(tiny_model: SourceModel) -> None:
    further = Further(sizes=((96, 64),), rows=(1, 5))
    found = case_names(tiny_model, "unet", 64, further) - case_names(tiny_model, "unet", 64)
    assert found == {"rows2-96x64-t500", "rows1-48x32-t500", "rows5-48x32-t500"}
    decoded = case_names(tiny_model, "vae_decoder.kl-f8", 64, further)
    assert decoded == {"rows1-64x64", "rows2-48x32", "rows1-96x64", "rows1-48x32", "rows5-48x32"}
    assert case_names(tiny_model, "text_encoder", 64, further) == {"rows1", "rows3", "rows5"}


@pytest.mark.parametrize(
    ("further", "said"),
    [
        (Further(sizes=((96, 100),)), "size 96x100: this model takes multiples of 16 pixels up to 4096; got 100"),
        (Further(sizes=((8192, 64),)), "got 8192"),
        (Further(rows=(0,)), "--golden-rows is a whole number from 1 to 63; got 0"),
        (Further(rows=(64,)), "got 64"),
    ],
)
def test_what_the_model_does_not_take_is_refused_before_work_begins(
    tiny_model: SourceModel, further: Further, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        Recorder(tiny_model, tmp_path / "trajectory", further)


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
