"""The demo's training code runs, resumes to the same weights, and refines decoders without touching the encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from latentrt.export.demo import training
from latentrt.export.demo.__main__ import train_and_pack
from latentrt.export.demo.config import Recipe, Stage
from latentrt.export.source import load_source


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole recipe, two steps of everything."""
    folder = tmp_path_factory.mktemp("training")
    train_and_pack(Recipe.quick(), folder / "state", folder / "checkpoint")
    return folder


def test_the_recipe_ends_in_a_checkpoint_that_export_reads(packed: Path) -> None:
    files = {name: packed / "checkpoint" / f"demo-vae-{name}.safetensors" for name in ("ft-ema", "ft-mse")}
    source = load_source(packed / "checkpoint" / "demo.safetensors", vaes=files)
    assert list(source.vaes) == ["kl-f8", "ft-ema", "ft-mse"]
    assert source.facts.default_size == 128


def test_the_three_encoders_are_the_same_bytes_and_the_decoders_are_not(packed: Path) -> None:
    main = load_file(packed / "checkpoint" / "demo.safetensors")
    prefix = "first_stage_model."
    own = {key.removeprefix(prefix): tensor for key, tensor in main.items() if key.startswith(prefix)}
    for name in ("ft-ema", "ft-mse"):
        refined = load_file(packed / "checkpoint" / f"demo-vae-{name}.safetensors")
        assert refined.keys() == own.keys()
        changed = {key for key, tensor in refined.items() if not torch.equal(tensor, own[key])}
        assert changed
        assert all(key.startswith("decoder.") for key in changed)


def test_training_again_changes_nothing(packed: Path) -> None:
    before = (packed / "checkpoint" / "demo.safetensors").read_bytes()
    train_and_pack(Recipe.quick(), packed / "state", packed / "again")
    assert (packed / "again" / "demo.safetensors").read_bytes() == before


def test_a_packed_checkpoint_trains_on_with_its_encoders_untouched(packed: Path) -> None:
    start = packed / "checkpoint"
    train_and_pack(Recipe.quick(), packed / "further-state", packed / "further", start_from=start)
    before, after = (load_file(folder / "demo.safetensors") for folder in (start, packed / "further"))
    changed = {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    frozen = ("first_stage_model.encoder.", "first_stage_model.quant_conv.", "cond_stage_model.")
    assert not any(key.startswith(frozen) for key in changed)
    assert any(key.startswith("model.diffusion_model.") for key in changed)
    assert any(key.startswith("first_stage_model.decoder.") for key in changed)


def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(steps=12, batch=2, learning_rate=1e-2, warmup=2)

    def run(folder: Path, stop_at: int | None) -> torch.nn.Linear:
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 2)

        def loss(step: int) -> torch.Tensor:
            if step == stop_at:
                raise KeyboardInterrupt
            return module(torch.randn(4, 3)).square().mean()

        folder.mkdir(exist_ok=True)
        return training.train("toy", module, stage, loss, folder).module  # type: ignore[return-value]

    monkeypatch.setattr(training, "SAVE_EVERY_S", 0.0)
    whole = run(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", 7)
    resumed = run(tmp_path / "parts", None)
    assert torch.equal(whole.weight, resumed.weight)
    shorter = replace(stage, steps=7)
    assert training.learning_rate(shorter, 6) < training.learning_rate(stage, 6)
