"""What PyTorch answers while a network is in memory, and what later networks need of it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from latentrt.engines.golden import GoldenCase
from latentrt.engines.manifest import OWN_DECODER, TEXT_ENCODER, UNET, decoder_component

from .golden import case_inputs, record, text_states
from .source import SourceModel
from .token_table import save_token_table
from .trajectory import Drawn, draw, save_trajectory
from .wrappers import Network


class Recorder:
    """Records the networks of one model in the order of `network_loaders`, and its trajectory on the way.

    The text encoder leaves its token table and its states of the prompts, and the UNet its latents, so that neither
    need stay in memory.
    """

    def __init__(self, model: SourceModel, *, trajectory: Path, token_table: Path) -> None:
        self._model = model
        self._trajectory = trajectory
        self._token_table = token_table
        self._texts: dict[str, Tensor] = {}
        self._drawn: Drawn | None = None

    def record(self, network: Network) -> list[GoldenCase]:
        """Run the network on its golden cases."""
        facts, tokenizer = self._model.facts, self._model.tokenizer
        if network.name == TEXT_ENCODER:
            self._texts = text_states(network, tokenizer)
            save_token_table(network.module.text_encoder, self._token_table)
        cases = record(network, case_inputs(network, facts, tokenizer, self._texts))
        if network.name == UNET and network.inputs[0].shape[1] == facts.latent_channels:
            self._drawn = draw(network, facts, self._model.scheduler, self._texts)
        if network.name == decoder_component(OWN_DECODER) and self._drawn is not None:
            save_trajectory(self._drawn, network, facts, self._trajectory)
        return cases
