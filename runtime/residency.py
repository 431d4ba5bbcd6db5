"""Which engines are open under a memory budget: those of one picture's plan, with room made before each call."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from latentrt.engines.bundle import Bundle
from latentrt.engines.calls import call_shapes
from latentrt.engines.choice import Choice, Wanted, choices
from latentrt.engines.engine_set import EngineSet
from latentrt.engines.errors import InputError
from latentrt.engines.footprint import Appetite, Footprint, appetite, footprint
from latentrt.engines.manifest import MAX_TOKENS, SAFETY_CHECKER, TEXT_ENCODER, UNET, decoder_component
from latentrt.engines.process_memory import give_back, peak_bytes, resident_bytes
from latentrt.engines.size import Size

from .memory_plan import MemoryPlan, Phase, closed_first, plan_memory
from .request import Plan, Request
from .tiling import LEAST

_SLACK = 24 * 10**6  # samplers, drawn noise, the writing of files
_BYTES_PER_PIXEL = 3 * 4 * 3  # of a decoded picture: three channels of float32, and two copies under way


@dataclass(frozen=True)
class Limits:
    """What a pipeline may take.

    Attributes:
        memory: bytes.
        max_rows: of one call of the UNet.
        tile: latents on a side that a decoder gets at most; None for any.
        safety_checker: whether it looks at pictures, where the bundle has one.

    Raises:
        InputError: `memory` is not a positive whole number.
    """

    memory: int
    max_rows: int
    tile: int | None
    safety_checker: bool

    def __post_init__(self) -> None:
        if isinstance(self.memory, bool) or not isinstance(self.memory, int) or self.memory < 1:
            raise InputError(
                f"memory is an amount such as '4GB', or bytes, a whole number above 0; got {self.memory!r}"
            )


@dataclass(frozen=True)
class _Open:
    engines: EngineSet
    choice: Choice
    held: int
    working: int  # bytes that its calls have taken so far

    @property
    def bytes(self) -> int:
        return self.held + self.working


class Residency:
    """The budget of one pipeline, and what of it is taken; one thread owns it."""

    def __init__(self, bundle: Bundle, wanted: Wanted, limits: Limits) -> None:
        self._bundle, self._wanted = bundle, wanted
        self._budget, self._max_rows, self._tile = limits.memory, limits.max_rows, limits.tile
        self._checked = limits.safety_checker and bundle.manifest.safety_checker is not None
        self._sets: dict[str, EngineSet] = {}
        self._open: dict[str, _Open] = {}  # by key, in the order in which they were opened
        self._footprints: dict[str, Footprint] = {}
        self._process: int | None = None  # bytes that the process took before any engine was open
        self._pictures = 0
        self._gpu_before = 0
        self._gpu_peak = 0

    def engines(self, component: str) -> EngineSet:
        """The engines of a component; none is opened before a call needs it.

        Raises:
            InputError, EngineError: as `choices`.
        """
        if component not in self._sets:

            def admit(choice: Choice, bound: Mapping[str, int]) -> int | None:
                return self._admit(self._sets[component], choice, bound)

            self._sets[component] = EngineSet(choices(self._bundle, component, self._wanted), admit)
        return self._sets[component]

    def plan(self, request: Request, planned: Plan) -> MemoryPlan:
        """How a picture is drawn within the budget.

        Raises:
            InputError: it cannot be.
            EngineError: an engine cannot be opened here, or nobody knows what it takes.
        """
        images = request.num_images_per_prompt
        tokens = MAX_TOKENS * request.max_prompt_chunks
        prompts = 2 if request.guided else 1
        texts, rows = (min(self._max_rows, prompts * each) for each in (request.max_prompt_chunks, images))
        size, decoder = (planned.width, planned.height), decoder_component(planned.decoder)
        unet = call_shapes(self._bundle, UNET, size, tokens)
        phases = [
            self._phase(TEXT_ENCODER, {texts: {"rows": texts}}),
            self._phase(UNET, {count: {**unet, "rows": count} for count in range(rows, 0, -1)}),
            self._phase(decoder, self._tiles(decoder, size)),
        ]
        if self._checked:
            phases.append(self._phase(SAFETY_CHECKER, {1: {"rows": 1}}))
        self._pictures = max(self._pictures, images * planned.width * planned.height * _BYTES_PER_PIXEL)
        return plan_memory(self._budget, self._base, phases)

    def rows(self, bound: Mapping[str, int]) -> int:
        """The rows that one call of the UNet may have, for its other free dimensions."""
        options = {count: {**bound, "rows": count} for count in range(self._max_rows, 0, -1)}
        return self._phase(UNET, options).best_within(self._budget - self._base) or 1

    def tile(self, decoder: str, size: Size) -> int:
        """The side of a tile in latents for a picture of (width, height); its own side where it is decoded whole."""
        phase = self._phase(decoder, self._tiles(decoder, size))
        option = phase.best_within(self._budget - self._base)
        return option if option is not None else min(phase.options)

    @property
    def _base(self) -> int:
        if self._process is None:
            self._gpu_before = self._gpu_bytes()
            self._process = self._appetite.library + (0 if self._appetite.gpu else resident_bytes() + _SLACK)
        return self._process + (0 if self._appetite.gpu else self._pictures)

    @property
    def _appetite(self) -> Appetite:
        return appetite(self._wanted.engine)

    def _gpu_bytes(self) -> int:
        """What is taken of the GPU by whomever, where engines run on one."""
        if not self._appetite.gpu:
            return 0
        cuda = importlib.import_module("latentrt.engines.trt.cuda")  # asks for cuda-python, as these engines do
        used: int = cuda.used_bytes(self._wanted.device)
        return used

    def _note_gpu(self) -> None:
        self._gpu_peak = max(self._gpu_peak, self._gpu_bytes() - self._gpu_before)

    def peak(self) -> int:
        """Bytes that were taken at most: by the process, or of the GPU that engines run on, seen between calls."""
        self._note_gpu()
        return self._gpu_peak if self._appetite.gpu else peak_bytes()

    def _phase(self, component: str, options: Mapping[int, Mapping[str, int]]) -> Phase:
        engines = self.engines(component)
        serving = {option: engines.serving_shapes(bound) or engines.choices[0] for option, bound in options.items()}
        working = {
            option: _working(serving[option], self._footprint(serving[option]), bound)
            for option, bound in options.items()
        }
        first = self._footprint(next(iter(serving.values())))
        return Phase(component, first.held, first.opening, working, first.streamable)

    def _tiles(self, decoder: str, size: Size) -> dict[int, dict[str, int]]:
        """The shapes of a decoder's calls by tile: whole, or what was asked for, and smaller ones that it holds."""
        side = max(size) // self._bundle.manifest.model.vae_scale_factor
        first = min(side, self._tile or side)
        smaller = range((first - 1) // LEAST * LEAST, 0, -LEAST)
        found = {tile: call_shapes(self._bundle, decoder, size, tile=tile) for tile in (first, *smaller)}
        engines = self.engines(decoder)
        return {tile: bound for tile, bound in found.items() if tile == first or engines.serving_shapes(bound)}

    def _footprint(self, choice: Choice) -> Footprint:
        if choice.key.id not in self._footprints:
            self._footprints[choice.key.id] = footprint(choice)
        return self._footprints[choice.key.id]

    def _admit(self, engines: EngineSet, choice: Choice, bound: Mapping[str, int]) -> int | None:
        """Close what has to go before a call, the engine itself too where only a fresh one leaves room.

        Returns the bytes of weights that it may have on the GPU, where some have to wait in the host's memory.
        """
        self._note_gpu()
        found, room = self._footprint(choice), self._budget - self._base
        working, mine = _working(choice, found, bound), self._open.pop(choice.key.id, None)
        if mine is not None and working <= mine.working:
            self._open[choice.key.id] = mine
            return None
        if mine is not None:
            grown = replace(mine, working=mine.working + working)
            self._make_room(grown.bytes, room)
            self._open[choice.key.id] = grown
            if self._taken() <= room:
                return None
            self._close([choice.key.id])
        needed = found.held + max(found.opening, working)
        streamed = min(found.streamable, max(0, needed - room))
        self._make_room(needed - streamed, room)
        self._open[choice.key.id] = _Open(engines, choice, found.held - streamed, working)
        return found.weights - streamed if streamed else None

    def _make_room(self, needed: int, room: int) -> None:
        self._close(closed_first({key: one.bytes for key, one in self._open.items()}, needed, room))

    def _taken(self) -> int:
        return sum(one.bytes for one in self._open.values())

    def _close(self, keys: list[str]) -> None:
        for key in keys:
            going = self._open.pop(key)
            going.engines.release(going.choice.key)
        if keys:
            give_back()


def _working(choice: Choice, found: Footprint, bound: Mapping[str, int]) -> int:
    """Bytes of a call: an engine that was built for profiles takes what the greatest of them needs."""
    profiles = choice.profiles or ()
    built: list[Mapping[str, int]] = [{name: span.most for name, span in one.dimensions.items()} for one in profiles]
    return max(map(found.working, built or [bound]))
