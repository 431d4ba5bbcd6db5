"""Bundles in fp16: half the disk, no further from PyTorch fp32 than PyTorch in fp16, and every other part at work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latentrt.engines.bundle import Bundle
from latentrt.engines.golden import golden_cases
from latentrt.engines.metrics import difference
from latentrt.engines.onnxruntime_backend import BACKEND
from latentrt.engines.trajectory import load_trajectories
from latentrt.export.add_decoder import add_decoder
from latentrt.export.export import export_bundle
from latentrt.export.floor import own_error
from latentrt.export.reduced import DTYPES, ReducedPrecision, reduce_in_place
from latentrt.export.source import SourceModel
from latentrt.export.wrappers import network_loaders
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.verify import verify_bundle


@pytest.fixture(scope="module")
def half_bundle(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("half") / "bundle"
    export_bundle(tiny_source, folder, vaes={}, precision="fp16")
    return Bundle.open(folder)


def test_it_takes_half_the_disk(tiny_bundle: Bundle, half_bundle: Bundle) -> None:
    for name, component in half_bundle.manifest.components.items():
        whole = sum(tiny_bundle.manifest.files[file].size for file in tiny_bundle.component(name).weights)
        half = sum(half_bundle.manifest.files[file].size for file in component.weights)
        assert half < 0.55 * whole
    table, half_table = (b.manifest.files[b.manifest.token_embedding].size for b in (tiny_bundle, half_bundle))
    assert half_table < 0.51 * table


def test_no_answer_is_further_off_than_pytorch_in_fp16(half_bundle: Bundle, tiny_model: SourceModel) -> None:
    for name, loader in network_loaders(tiny_model).items():
        cases = golden_cases(half_bundle, name)
        floor = own_error(reduce_in_place(loader.load(), "fp16"), cases)
        with BACKEND.open(half_bundle, name, None) as engine:
            for case in cases:
                answers = engine.run(case.inputs)
                worst = max(difference(answers[key], case.outputs[key]).relative_l2 for key in case.outputs)
                assert 0 < worst <= floor


def test_the_manifest_states_precision_and_floors(tiny_bundle: Bundle, half_bundle: Bundle) -> None:
    for bundle, precision in ((tiny_bundle, "fp32"), (half_bundle, "fp16")):
        assert bundle.manifest.provenance["precision"] == precision
        for component in bundle.manifest.components.values():
            assert component.precision == precision
            assert 1e-5 < component.floor["fp16"] < 1e-2
            assert 3 < component.floor["bf16"] / component.floor["fp16"] < 20  # 8 in the limit: three bits fewer


def test_trajectories_state_their_floors(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.manifest.trajectory is not None
    for trajectory in load_trajectories(tiny_bundle, tiny_bundle.manifest.trajectory):
        half, brain = (trajectory.facts.floor[precision] for precision in ("fp16", "bf16"))
        assert all(h < b for h, b in zip(half.latents, brain.latents, strict=True))
        assert 1e-5 < half.image < brain.image < 0.5


@pytest.mark.parametrize("precision", list(DTYPES))
def test_reduced_runs_are_pytorchs_own(
    precision: ReducedPrecision, tiny_model: SourceModel, tiny_bundle: Bundle
) -> None:
    """The CPU's own kernels of that type, which may round more often, are as far from fp32."""
    for name, loader in network_loaders(tiny_model).items():
        case = golden_cases(tiny_bundle, name)[0]
        ours = own_error(reduce_in_place(loader.load(), precision), [case])
        network, dtype = loader.load(), DTYPES[precision]
        inputs = [torch.from_numpy(case.inputs[spec.name]) for spec in network.inputs]
        with torch.no_grad():
            answer = network.module.to(dtype)(*(x.to(dtype) if x.ndim > 1 else x for x in inputs))
        answers = answer if isinstance(answer, tuple) else (answer,)
        pairs = zip(network.outputs, answers, strict=True)
        theirs = max(difference(a.float().numpy(), case.outputs[spec.name]).relative_l2 for spec, a in pairs)
        assert 0.5 < theirs / ours < 2


def test_it_proves_itself_and_draws_the_same_picture(tiny_bundle: Bundle, half_bundle: Bundle) -> None:
    assert verify_bundle(half_bundle.root).passed
    latents = []
    for bundle in (tiny_bundle, half_bundle):
        with Pipeline.open(bundle.root) as pipeline:
            latents.append(pipeline.generate("a red circle", num_inference_steps=4, guidance_scale=1.0).latents)
    assert 0 < difference(latents[1], latents[0]).relative_l2 < 2e-3


def test_a_decoder_added_later_is_in_the_bundles_precision(half_bundle: Bundle, tiny_source: Path) -> None:
    add_decoder(half_bundle.root, "again", tiny_source / "vae")
    added = Bundle.open(half_bundle.root).component("vae_decoder.again")
    assert added.precision == "fp16"
    assert "vae_encoder.again" not in Bundle.open(half_bundle.root).manifest.components
