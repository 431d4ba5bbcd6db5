"""Sizes that were not recorded are answered by the graph as it is written; recorded ones are not answered twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from latentrt.engines.bundle import Bundle
from latentrt.engines.derived import derived_cases
from latentrt.engines.errors import InputError
from latentrt.engines.golden import golden_cases
from latentrt.engines.size import check_size, parse_size
from latentrt.engines.tensor import check_feeds

COMPONENTS = ["unet", "vae_encoder", "vae_decoder.kl-f8"]
# recorded are height 2 and width 2, and 1 and 2: latents of the autoencoder, half latents of the UNet
RECORDED = {"unet": (32, 32), "vae_encoder": (16, 16), "vae_decoder.kl-f8": (16, 16)}
NEW = (64, 48)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_new_size_is_answered_as_onnx_answers(tiny_original: Path, component: str) -> None:
    bundle = Bundle.open(tiny_original)
    stated, recorded = bundle.component(component), golden_cases(bundle, component)
    [case] = derived_cases(bundle, component, [NEW, NEW, RECORDED[component]], recorded)
    assert case.name == "rows1-64x48"
    check_feeds(component, stated.inputs, case.inputs)
    side = 1 if component == "vae_encoder" else 8
    [sized] = [array for array in case.inputs.values() if array.ndim == 4]
    assert sized.shape[2:] == (48 // side, 64 // side)
    expected = ReferenceEvaluator(str(bundle.graph(component))).run(None, case.inputs)
    assert list(case.outputs) == [spec.name for spec in stated.outputs]
    for found, reference in zip(case.outputs.values(), expected, strict=True):
        np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-5)


def test_noise_is_as_large_as_what_was_recorded(tiny_original: Path) -> None:
    bundle = Bundle.open(tiny_original)
    recorded = golden_cases(bundle, "unet")
    [case] = derived_cases(bundle, "unet", [(512, 512)], recorded)
    like = recorded[0].inputs
    assert case.inputs["sample"].std() == pytest.approx(like["sample"].std(), rel=0.1)
    assert np.abs(case.inputs["sample"]).max() <= np.abs(like["sample"]).max()
    np.testing.assert_array_equal(case.inputs["encoder_hidden_states"], like["encoder_hidden_states"])


def test_a_text_length_that_was_not_recorded_is_answered_with_states_of_its_own(tiny_original: Path) -> None:
    bundle = Bundle.open(tiny_original)
    recorded = golden_cases(bundle, "unet")
    long, both = derived_cases(bundle, "unet", [RECORDED["unet"], NEW], recorded, (154,))
    assert (long.name, both.name) == ("rows1-32x32-154tokens", "rows1-64x48-154tokens")
    states, like = long.inputs["encoder_hidden_states"], recorded[0].inputs["encoder_hidden_states"]
    assert states.shape == (1, 154, like.shape[2])
    assert states.std() == pytest.approx(like.std(), rel=0.1)
    assert not np.array_equal(states[:, :77], states[:, 77:])  # repeated ones would be attended to as if they were one
    expected = ReferenceEvaluator(str(bundle.graph("unet"))).run(None, both.inputs)
    np.testing.assert_allclose(both.outputs["out_sample"], expected[0], rtol=1e-4, atol=1e-5)
    decoder = golden_cases(bundle, "vae_decoder.kl-f8")  # which sees no text
    assert derived_cases(bundle, "vae_decoder.kl-f8", [RECORDED["vae_decoder.kl-f8"]], decoder, (154,)) == []


def test_a_component_without_a_size_has_none(tiny_original: Path) -> None:
    bundle = Bundle.open(tiny_original)
    assert derived_cases(bundle, "text_encoder", [NEW], golden_cases(bundle, "text_encoder")) == []


def test_a_size_is_width_by_height() -> None:
    assert parse_size("768x512") == (768, 512)
    check_size((768, 512), 64)


@pytest.mark.parametrize("word", ["", "512", "512x", "x512", "512X512", "5.5x4", "-8x8", "²x8", "1" * 5000 + "x8"])
def test_what_is_no_size_is_refused(word: str) -> None:
    with pytest.raises(InputError, match="a size is WIDTHxHEIGHT in pixels"):
        parse_size(word)


@pytest.mark.parametrize("size", [(0, 64), (64, 100), (8192, 64)])
def test_a_size_that_the_model_does_not_take_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"size {size[0]}x{size[1]}: this model takes multiples of 64 pixels"):
        check_size(size, 64)
