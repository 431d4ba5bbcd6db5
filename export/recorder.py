"""What PyTorch answers while a network is in memory, and what later networks need of it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from latentrt.engines.golden import GoldenCase
from latentrt.engines.manifest import OWN_DECODER, SAFETY_CHECKER, TEXT_ENCODER, UNET, decoder_component

from .golden import NOTHING_FURTHER, Further, case_inputs, check_further, record, text_states
from .safety_network import safety_inputs
from .source import SourceModel
from .trajectory import GUIDANCE_SCALES, Drawn, draw, save_trajectories
from .wrappers import Network


class Recorder:
    """Records the networks of one model in the order of `network_loaders`, and its trajectories on the way.

    The text encoder leaves its states of the prompts, and the UNet its latents, so that neither need stay in memory.

    Raises:
        InputError: the model does not take what `further` asks for.
    """

    def __init__(self, model: SourceModel, trajectory: Path, further: Further = NOTHING_FURTHER) -> None:
        check_further(further, model.facts)
        self._further = further
        self._model = model
        self._trajectory = trajectory
        self._texts: dict[str, Tensor] = {}
        self._drawn: list[Drawn] = []

    def record(self, network: Network) -> list[GoldenCase]:
        """Run the network on its golden cases."""
        facts, tokenizer = self._model.facts, self._model.tokenizer
        if network.name == SAFETY_CHECKER:
            return record(network, safety_inputs(network))
        if network.name == TEXT_ENCODER:
            self._texts = text_states(network, tokenizer)
        cases = record(network, case_inputs(network, facts, tokenizer, self._texts, self._further))
        if network.name == UNET and network.inputs[0].shape[1] == facts.latent_channels:
            schedule = self._model.scheduler
            self._drawn = [draw(network, facts, schedule, self._texts, scale) for scale in GUIDANCE_SCALES]
        if network.name == decoder_component(OWN_DECODER) and self._drawn:
            save_trajectories(self._drawn, network, facts, self._trajectory)
        return cases
