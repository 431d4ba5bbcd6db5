"""The answers that a bundle carries, in the form that contestants' answers are kept in: a reference without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.bundle import Bundle
from latentrt.engines.golden import GoldenCase, golden_cases
from latentrt.engines.manifest import TEXT_ENCODER, UNET, decoder_component
from latentrt.engines.trajectory import Trajectory, TrajectoryFacts, load_trajectories
from latentrt.runtime.picture import to_image
from latentrt.runtime.prompt.token_table import TokenTable
from latentrt.runtime.tokenizer import ClipTokenizer

from .kept import Kept
from .plan import GOLDEN, NETWORKS, VAE_DECODER

_TOLD = {TEXT_ENCODER: "last_hidden_state", UNET: "out_sample", VAE_DECODER: "sample"}  # what all of them answer


@dataclass(frozen=True, eq=False)
class Golden:
    """A bundle's recorded answers.

    Attributes:
        kept: one picture for each trajectory in `asked`, in order, and the outputs of one call of each network.
        asked: what a candidate must be asked for to be compared with each picture.
        noise: (1, 4, h, w) float32 unit noise that all of them start from.
        feeds: by network the file with the inputs of the call whose outputs are kept; of the text encoder, token ids.
    """

    kept: Kept
    asked: tuple[TrajectoryFacts, ...] = ()
    noise: NDArray[np.float32] | None = None
    feeds: dict[str, Path] = field(default_factory=dict)


def golden(bundle: Bundle, folder: Path) -> Golden:
    """Write a bundle's recorded answers as `.npz` files into `folder`. A packed bundle may have none.

    Raises:
        BundleError: a record does not fit the bundle.
    """
    path = bundle.manifest.trajectory
    trajectories = load_trajectories(bundle, path) if path else []
    pictures = tuple(_write_picture(folder / f"golden-{one.facts.name}.npz", one) for one in trajectories)
    feeds, outputs = {}, {}
    for role in NETWORKS:
        call = _call(bundle, role)
        if call is not None:
            feeds[role] = _write(folder / f"golden-{role}-feeds.npz", **call.inputs)
            outputs[role] = _write(folder / f"golden-{role}.npz", **{_TOLD[role]: call.outputs[_TOLD[role]]})
    return Golden(
        kept=Kept(GOLDEN, pictures, outputs),
        asked=tuple(one.facts for one in trajectories),
        noise=trajectories[0].noise if trajectories else None,
        feeds=feeds,
    )


def _call(bundle: Bundle, role: str) -> GoldenCase | None:
    """The largest recorded call of a network, whose time is the most like a picture's; None where none is recorded."""
    name = decoder_component(bundle.manifest.default_decoder) if role == VAE_DECODER else role
    if bundle.component(name).golden is None:
        return None
    cases = golden_cases(bundle, name)
    if role == TEXT_ENCODER:
        return _with_token_ids(bundle, cases)
    return max(cases, key=lambda case: sum(array.size for array in case.outputs.values()))


def _with_token_ids(bundle: Bundle, cases: list[GoldenCase]) -> GoldenCase | None:
    """The call for a trajectory's prompt alone, with the ids of its tokens for their vectors, which are recorded."""
    path = bundle.manifest.trajectory
    if not path:
        return None
    tokenizer = ClipTokenizer.from_file(bundle.file(bundle.manifest.tokenizer))
    table = TokenTable(bundle.file(bundle.manifest.token_embedding))
    ids = tokenizer.encode(load_trajectories(bundle, path)[0].facts.prompt).ids
    vectors = np.stack([table.vector(int(token)) for token in ids])  # (77, width)
    for case in cases:
        recorded = case.inputs["inputs_embeds"]
        if len(recorded) == 1 and np.array_equal(recorded[0], vectors):
            return GoldenCase(case.name, {"input_ids": ids[None]}, case.outputs)
    return None


def _write_picture(file: Path, trajectory: Trajectory) -> Path:
    shown = np.asarray(to_image(trajectory.image[0], {}))
    return _write(file, images=shown[None], latents=trajectory.latents[-1], steps=trajectory.latents)


def _write(file: Path, **arrays: Any) -> Path:
    np.savez(file, **arrays)
    return file
