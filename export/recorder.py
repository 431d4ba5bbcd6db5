"""What PyTorch answers while a network is in memory, and what later networks need of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from latentrt.engines.golden import GoldenCase
from latentrt.engines.manifest import OWN_DECODER, SAFETY_CHECKER, TEXT_ENCODER, UNET, Precision, decoder_component

from .compare import round_up
from .floor import own_error
from .golden import NOTHING_FURTHER, Further, Inputs, case_inputs, check_further, prompt_vectors, record, text_states
from .reduced import DTYPES, in_precision
from .safety_network import safety_inputs
from .source import SourceModel
from .trajectory import GUIDANCE_SCALES, Drawn, decoded, draw, save_trajectories
from .wrappers import Network


@dataclass(frozen=True)
class Recorded:
    """PyTorch's fp32 answers, and by precision its own error in that."""

    cases: list[GoldenCase]
    floor: Mapping[Precision, float]


def record_network(
    network: Network, inputs: Mapping[str, Inputs], visit: Callable[[Network, Precision], None] | None = None
) -> Recorded:
    """Run the network on each case, in fp32 and in each reduced precision; `visit` sees it in every one of them."""
    cases, floor = record(network, inputs), {}
    for precision, run in _in_each_precision(network):
        if run is not network and (error := own_error(run, cases)) < 1:  # NaN where it overflows: no floor then
            floor[precision] = round_up(error)
        if visit is not None:
            visit(run, precision)
    return Recorded(cases, floor)


def _in_each_precision(network: Network) -> Iterator[tuple[Precision, Network]]:
    """One copy is in memory at a time."""
    yield "fp32", network
    for precision in DTYPES:
        yield precision, in_precision(network, precision)


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
        self._vectors: dict[str, Tensor] = {}
        self._texts: dict[Precision, dict[str, Tensor]] = {"fp32": {}}
        self._drawn: dict[Precision, list[Drawn]] = {}

    def record(self, network: Network) -> Recorded:
        """Run the network on its golden cases."""
        facts, tokenizer = self._model.facts, self._model.tokenizer
        if network.name == SAFETY_CHECKER:
            return record_network(network, safety_inputs(network))
        if network.name == TEXT_ENCODER:
            self._vectors = prompt_vectors(network, tokenizer)
        inputs = case_inputs(network, facts, tokenizer, self._texts["fp32"], self._further)
        recorded = record_network(network, inputs, self._follow)
        if network.name == decoder_component(OWN_DECODER) and self._drawn:
            save_trajectories(self._drawn, self._trajectory)
        return recorded

    def _follow(self, network: Network, precision: Precision) -> None:
        """Take the trajectories as far as this network takes them."""
        facts, schedule = self._model.facts, self._model.scheduler
        if network.name == TEXT_ENCODER:
            self._texts[precision] = text_states(network, self._vectors)
        elif network.name == UNET and network.inputs[0].shape[1] == facts.latent_channels:
            texts = self._texts[precision]
            self._drawn[precision] = [draw(network, facts, schedule, texts, scale) for scale in GUIDANCE_SCALES]
        elif network.name == decoder_component(OWN_DECODER):
            drawn = self._drawn.get(precision, [])
            self._drawn |= {precision: [decoded(one, network, facts) for one in drawn]} if drawn else {}
