"""What a memory budget means for a picture: which engines stay open, how many rows a call has, how large tiles are.

Pure: `residency.py` keeps to the plan, by the same sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from latentrt.engines.errors import InputError
from latentrt.engines.memory_words import told


@dataclass(frozen=True)
class Phase:
    """One engine's part in a picture.

    Attributes:
        component: its name.
        held: bytes while it is open.
        opening: bytes on top of that while it opens.
        options: bytes that its calls may take, by what they are asked with (rows of the UNet, tile of the decoder),
            the best first; not empty.
        streamable: bytes of `held` that may wait in the host's memory, where the engine was built to stream them.
    """

    component: str
    held: int
    opening: int
    options: Mapping[int, int]
    streamable: int = 0

    def needs(self, option: int) -> int:
        """Bytes at its greatest, alone."""
        return self.held + max(self.opening, self.options[option])

    @property
    def best(self) -> int:
        """The option to be taken where memory allows."""
        return next(iter(self.options))

    def best_within(self, room: int) -> int | None:
        """The best option with which the engine alone fits; None where it fits with none.

        Weights are streamed only where it fits with none otherwise: each call brings them over again.
        """
        fitting = (option for option in self.options if self.needs(option) <= room)
        streaming = (option for option in self.options if self.needs(option) - self.streamable <= room)
        return next(fitting, next(streaming, None))

    def streamed(self, option: int, room: int) -> int:
        """Bytes of weights that have to wait in the host's memory for the engine to fit alone."""
        return min(self.streamable, max(0, self.needs(option) - room))


@dataclass(frozen=True)
class MemoryPlan:
    """How a picture is drawn within a budget; amounts are bytes.

    Attributes:
        budget: what may be taken.
        base: what the process takes without engines, libraries included.
        peak: what is expected to be taken at most.
        in_turn: whether engines are closed to make room for others.
        chosen: by component, the option that its calls are asked with.
    """

    budget: int
    base: int
    peak: int
    in_turn: bool
    chosen: Mapping[str, int]


def plan_memory(budget: int, base: int, phases: Sequence[Phase]) -> MemoryPlan:
    """The plan that keeps most open and changes least: all engines open, or else in turn, then fewer rows or tiles.

    Raises:
        InputError: no plan fits; it says what is needed at least, and by which engine.
    """
    best = {phase.component: phase.best for phase in phases}
    together = _together(base, phases, best)
    if together <= budget:
        return MemoryPlan(budget, base, together, in_turn=False, chosen=best)
    hardest = max(phases, key=lambda phase: min(map(phase.needs, phase.options)) - phase.streamable)
    chosen = {}
    for phase in (hardest, *phases):
        option = phase.best_within(budget - base)
        if option is None:
            raise InputError(_refusal(budget, base, phase))
        chosen[phase.component] = option
    return MemoryPlan(budget, base, _peak(base, phases, chosen, budget), in_turn=True, chosen=chosen)


def closed_first(open_engines: Mapping[str, int], needed: int, room: int) -> list[str]:
    """Which of the open engines have to go, the first opened first, so that `needed` bytes fit beside the others."""
    going: list[str] = []
    left = sum(open_engines.values())
    for name, held in open_engines.items():
        if left + needed <= room:
            break
        going.append(name)
        left -= held
    return going


def _together(base: int, phases: Iterable[Phase], chosen: Mapping[str, int]) -> int:
    """Bytes at the greatest moment where nothing is closed: what was taken for calls stays taken."""
    open_bytes, most = 0, 0
    for phase in phases:
        most = max(most, base + open_bytes + phase.needs(chosen[phase.component]))
        open_bytes += phase.held + phase.options[chosen[phase.component]]
    return max(most, base + open_bytes)


def _peak(base: int, phases: Sequence[Phase], chosen: Mapping[str, int], budget: int) -> int:
    """Bytes at the greatest moment where engines are closed as `closed_first` says."""
    kept: dict[str, int] = {}
    most = base
    for phase in phases:
        streamed = phase.streamed(chosen[phase.component], budget - base)
        needed = phase.needs(chosen[phase.component]) - streamed
        for name in closed_first(kept, needed, budget - base):
            del kept[name]
        most = max(most, base + sum(kept.values()) + needed)
        kept[phase.component] = phase.held - streamed + phase.options[chosen[phase.component]]
    return most


def _refusal(budget: int, base: int, phase: Phase) -> str:
    least = min(phase.options, key=phase.needs)
    held, alone = phase.held - phase.streamable, base + phase.needs(least) - phase.streamable
    return (
        f"{told(budget)} of memory are too little: {phase.component} takes {told(alone)} by itself "
        f"({told(base)} before it opens, {told(held)} for its weights, {told(phase.options[least])} for a call); "
        "give more with --memory, or take a smaller picture, an engine or a bundle in fp16, or another --engine"
    )
