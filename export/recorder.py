"""What PyTorch answers while a network is in memory, and what later networks need of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from latentrt.engines.golden import GoldenCase
from latentrt.engines.manifest import (
    OWN_DECODER,
    SAFETY_CHECKER,
    TEXT_ENCODER,
    UNET,
    VAE_ENCODER,
    ModelFacts,
    Precision,
    Preview,
    decoder_component,
)

from .floor import own_error
from .golden import (
    NOTHING_FURTHER,
    Further,
    case_inputs,
    check_further,
    prompt_vectors,
    record,
    text_states,
    vae_inputs,
)
from .preview import coloured_latents, fit_preview
from .reduced import DTYPES, reduce_in_place
from .safety_network import safety_inputs
from .source import SourceModel
from .trajectory import Drawn, decoded, draw, save_trajectories
from .wrappers import Network

Floor = dict[Precision, float]


class Recording(Protocol):
    """What an export asks of each network: first its answers, then, once it is exported, its floor."""

    def record(self, network: Network) -> list[GoldenCase]:
        """Run the network on its golden cases."""

    def floor(self, network: Network, cases: Sequence[GoldenCase]) -> Floor:
        """PyTorch's own error in each reduced precision; the network's weights are rounded for it, and stay so."""


class VaeRecorder:
    """Records a further autoencoder of a bundle."""

    def __init__(self, facts: ModelFacts) -> None:
        self._facts = facts

    def record(self, network: Network) -> list[GoldenCase]:
        """As `Recording`."""
        return record(network, vae_inputs(network, self._facts))

    def floor(self, network: Network, cases: Sequence[GoldenCase]) -> Floor:
        """As `Recording`."""
        return _floor(network, cases)


class Recorder:
    """Records the networks of one model in the order of `network_loaders`, and its trajectories on the way.

    The text encoder leaves its states of the prompts, and the UNet and the encoder their latents, so that none need
    stay in memory. `preview` is fitted when the checkpoint's own decoder is recorded.

    Raises:
        InputError: the model does not take what `further` asks for.
    """

    def __init__(self, model: SourceModel, trajectory: Path, further: Further = NOTHING_FURTHER) -> None:
        check_further(further, model.facts)
        self._further = further
        self._model = model
        self._trajectory = trajectory
        self._vectors: dict[str, Tensor] = {}
        self._texts: dict[Precision, dict[str, Tensor]] = {"fp32": {}}
        self._drawn: dict[Precision, list[Drawn]] = {}
        self._coloured: Tensor | None = None
        self.preview: Preview | None = None

    def record(self, network: Network) -> list[GoldenCase]:
        """As `Recording`."""
        facts, tokenizer = self._model.facts, self._model.tokenizer
        if network.name == SAFETY_CHECKER:
            return record(network, safety_inputs(network))
        if network.name == TEXT_ENCODER:
            self._vectors = prompt_vectors(network, tokenizer)
        cases = record(network, case_inputs(network, facts, tokenizer, self._texts["fp32"], self._further))
        self._follow(network, "fp32")
        self._fit(network)
        return cases

    def floor(self, network: Network, cases: Sequence[GoldenCase]) -> Floor:
        """As `Recording`; the trajectories are taken on in each precision, and written with their last network."""
        floor = _floor(network, cases, self._follow)
        if network.name == decoder_component(OWN_DECODER) and self._drawn:
            save_trajectories(self._drawn, self._trajectory)
        return floor

    def _fit(self, network: Network) -> None:
        """Take the preview as far as this network, in fp32, takes it."""
        if network.name == VAE_ENCODER:
            self._coloured = coloured_latents(network, self._model.facts)
        elif network.name == decoder_component(OWN_DECODER) and self._coloured is not None:
            self.preview = fit_preview(network, self._model.facts, self._coloured, self._drawn.get("fp32", ()))

    def _follow(self, network: Network, precision: Precision) -> None:
        """Take the trajectories as far as this network takes them."""
        facts, schedule = self._model.facts, self._model.scheduler
        if network.name == TEXT_ENCODER:
            self._texts[precision] = text_states(network, self._vectors)
        elif network.name == UNET and network.inputs[0].shape[1] == facts.latent_channels:
            self._drawn[precision] = draw(network, facts, schedule, self._texts[precision])
        elif network.name == decoder_component(OWN_DECODER) and precision in self._drawn:
            self._drawn[precision] = [decoded(one, network, facts) for one in self._drawn[precision]]


def _floor(
    network: Network, cases: Sequence[GoldenCase], visit: Callable[[Network, Precision], None] | None = None
) -> Floor:
    """`visit` sees the network in each precision. One that overflows, or is further off than nothing, is no floor."""
    floor: Floor = {}
    for precision in DTYPES:
        reduced = reduce_in_place(network, precision)
        if (error := own_error(reduced, cases)) < 1:
            floor[precision] = error
        if visit is not None:
            visit(reduced, precision)
    return floor
