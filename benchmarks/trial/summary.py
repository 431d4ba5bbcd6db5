"""From a trial's journal and the arrays that were kept to its results: nothing else goes in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.atomic import new_file
from latentrt.export.demo.scenes import SIZE

from ..quality.adherence import ADHERENCE, adherence, scenes_of
from .accuracy import compare
from .conditions import summed
from .journal import Declined, Failed, Line, Measured, Ready, read_journal
from .kept import Kept, read_arrays
from .plan import BATCH, CLIENTS, COLD_START, COMPONENT, GOLDEN, KEPT, MEMORY, OPENING, PICTURE, REQUESTS
from .results import (
    DENOISE_DECODE,
    PROMPT_TO_PNG,
    Accuracy,
    Contestant,
    Environment,
    Memory,
    Point,
    Results,
    Scope,
    Settings,
)
from .statistics import spread, timing

REFERENCE = "torch"  # in fp32
FLOORS = ("torch-bf16", "torch-fp16")  # whose distance from the reference is what a lower precision costs
_NOTHING_RECORDED = "the bundle was packed without PyTorch's answers, and no fp32 PyTorch took part"
_NO_NOISE = "it takes no start noise, so its pictures are others"


def summarise(folder: Path, recorded: Kept | None = None) -> Results:
    """The results of the trial in a folder; writes the pictures beside them.

    `recorded` are the bundle's own answers, for where PyTorch itself did not take part.

    Raises:
        InputError: the journal or an array cannot be read.
        OutputError: a picture cannot be written.
    """
    header, lines = read_journal(folder)
    names = header.settings.contestants
    of = {name: _Gathered(name, lines, folder) for name in names}
    whole = [name for name in names if of[name].reason is None]
    reference = of[REFERENCE].kept(header.settings) if REFERENCE in whole else recorded
    contestants = {name: of[name].contestant(header.settings, reference) for name in names}
    stretches = [line.stretch for line in lines if isinstance(line, Measured) and line.stretch is not None]
    spreads = {name: spread(of[name].latencies) for name in names if of[name].latencies}
    return Results(
        started=header.started,
        seconds=round(sum(stretch.seconds for stretch in stretches), 1),
        latentrt=header.latentrt,
        machine=header.machine,
        conditions=summed(stretches, spreads),
        settings=header.settings,
        contestants=contestants,
        yardstick=header.yardstick,
        floor=next((name for name in FLOORS if name in whole and REFERENCE in whole), None),
        pictures={name: found for name in names if (found := _pictures(of[name], folder, header.settings))},
    )


class _Gathered:
    """One contestant's lines."""

    def __init__(self, name: str, lines: Sequence[Line], folder: Path) -> None:
        self.name, self._folder = name, folder / "kept" / name.replace(":", "-")
        own = [line for line in lines if line.contestant == name]
        self._measured = [line for line in own if isinstance(line, Measured)]
        self._ready = next((line for line in reversed(own) if isinstance(line, Ready)), None)
        self._declined = {line.what: line.reason for line in own if isinstance(line, Declined)}
        last = next((line for line in reversed(own) if isinstance(line, Failed | Measured)), None)
        self._failed = last if isinstance(last, Failed) else None

    @property
    def reason(self) -> str | None:
        """Why it is out, if it is: it failed, and nothing came of it since."""
        return None if self._failed is None else self._failed.reason

    @property
    def latencies(self) -> list[float]:
        return [line.found[PROMPT_TO_PNG] for line in self._of(PICTURE)]

    def kept(self, settings: Settings, prefix: str = "picture", what: str = KEPT) -> Kept:
        """Its arrays; with the words of the recorded answers, those that are compared with these."""
        count = len(self._of(what)) if what == GOLDEN else len(settings.prompts)
        pictures = [self._folder / f"{prefix}-{index}.npz" for index in range(count)]
        lead = f"{GOLDEN} " if what == GOLDEN else f"{COMPONENT} "
        parts = {line.what.removeprefix(lead) for line in self._measured if line.what.startswith(lead)}
        file = "{}.npz" if what == KEPT else f"{GOLDEN}-{{}}.npz"
        components = {part: place for part in sorted(parts) if (place := self._folder / file.format(part)).exists()}
        whole = len(self._of(what)) == count
        return Kept(self.name, tuple(pictures) if whole else (), components)

    def contestant(self, settings: Settings, reference: Kept | None) -> Contestant:
        pictures = [line.found for line in self._of(PICTURE)]
        opened = [line.found for line in self._of(OPENING)]
        starts = [line.found for line in self._of(COLD_START)]
        openings = [found["seconds"] for found in (*opened, *(start["opened"] for start in starts))]
        totals: dict[Scope, list[float]] = {
            scope: [found[scope] for found in pictures if found[scope] is not None]
            for scope in (PROMPT_TO_PNG, DENOISE_DECODE)
        }
        return Contestant(
            state="measured" if self.reason is None else "failed",
            reason=self.reason,
            title=self._title,
            environment=self._environment(opened),
            opening=timing(openings) if openings else None,
            cold_start=timing([start["seconds"] for start in starts]) if starts else None,
            latency={scope: timing(samples) for scope, samples in totals.items() if samples},
            components={name: timing(samples) for name, samples in self._components()},
            parts=_parts(pictures),
            yardstick=timing([sum(found["yardstick"]) / 2 for found in pictures]) if pictures else None,
            others=tuple(line.stretch.others_cores for line in self._of(PICTURE) if line.stretch is not None),
            processor=tuple(found["processor"] for found in pictures),
            inside=_inside(pictures),
            batches=tuple(self._curve(BATCH)),
            concurrency=tuple(self._curve(CLIENTS)),
            memory=self._memory(starts),
            files=next((found["files"] for found in opened if found.get("files")), None),
            accuracy=self._accuracy(settings, reference, opened),
            quality=self._quality(settings),
            notes=tuple(self._notes(opened)),
        )

    @property
    def _title(self) -> str:
        told = self._ready or self._failed
        return self.name if told is None else told.title

    def _of(self, what: str) -> list[Measured]:
        return sorted((line for line in self._measured if line.what == what), key=lambda line: line.key)

    def _environment(self, opened: list[dict[str, Any]]) -> Environment:
        environment = Environment(python="") if self._ready is None else self._ready.environment
        versions: dict[str, str] = next((found["versions"] for found in opened), {})
        return Environment(
            python=environment.python,
            requirements=environment.requirements,
            versions=environment.versions | versions,
            installed=environment.installed,
        )

    def _components(self) -> Iterator[tuple[str, list[float]]]:
        whats = dict.fromkeys(line.what for line in self._measured if line.what.startswith(f"{COMPONENT} "))
        for what in whats:
            yield what.removeprefix(f"{COMPONENT} "), [seconds for line in self._of(what) for seconds in line.found]

    def _curve(self, kind: str) -> Iterator[Point]:
        counts = {int(line.what.split()[1]) for line in self._measured if line.what.startswith(f"{kind} ")}
        for count in sorted(counts):
            found = [line.found for line in self._of(f"{kind} {count}")]
            if kind == BATCH:
                yield Point(count=count, pictures_per_second=timing([count / one[PROMPT_TO_PNG] for one in found]))
                continue
            rates = [REQUESTS * count / one["seconds"] for one in found]
            latencies = [seconds for one in found for seconds in one["latencies"]]
            yield Point(count=count, pictures_per_second=timing(rates), latency=timing(latencies))

    def _memory(self, starts: list[dict[str, Any]]) -> Memory | None:
        told = [line.found for line in self._of(MEMORY)] or [start["memory"] for start in starts]
        gpu = [found["gpu"] for found in told if found["gpu"] is not None]
        return Memory(rss=max(found["rss"] for found in told), gpu=max(gpu, default=None)) if told else None

    def _accuracy(self, settings: Settings, reference: Kept | None, opened: list[dict[str, Any]]) -> Accuracy | None:
        if reference is None or reference.name == self.name or not opened:
            return None
        if not (opened[0]["takes latents"] or opened[0].get("torch noise")):
            return Accuracy(reference=reference.name, note=_NO_NOISE)
        prefix, what = (GOLDEN, GOLDEN) if reference.name == GOLDEN else ("picture", KEPT)
        candidate = self.kept(settings, prefix, what)
        if not (reference.pictures or reference.components):
            return Accuracy(reference=reference.name, note=_NOTHING_RECORDED)
        if not (candidate.pictures or candidate.components):
            return Accuracy(reference=reference.name, note="it gave nothing to compare before it failed")
        return compare(reference, candidate)

    def _quality(self, settings: Settings) -> dict[str, float]:
        """Of the demo model's pictures the share that shows what was asked for, where every prompt can be checked."""
        scenes, pictures = scenes_of(settings.prompts), self.kept(settings).pictures
        if scenes is None or not pictures or (settings.width, settings.height) != (SIZE, SIZE):
            return {}
        images = [np.asarray(read_arrays(file)["images"][0], np.uint8) for file in pictures]
        return {ADHERENCE: adherence(images, scenes)["all"]}

    def _notes(self, opened: list[dict[str, Any]]) -> Iterator[str]:
        yield from dict.fromkeys(note for found in opened for note in found.get("notes", ()))
        yield from (f"{what}: {reason}" for what, reason in self._declined.items())


def _parts(pictures: list[dict[str, Any]]) -> dict[str, float]:
    """By network, the median over pictures of the seconds that all its calls took."""
    names = dict.fromkeys(name for found in pictures for name in found["components"])
    return {name: median(sum(found["components"].get(name, ())) for found in pictures) for name in names}


def _inside(pictures: list[dict[str, Any]]) -> float | None:
    shares = [
        sum(map(sum, found["components"].values())) / found[PROMPT_TO_PNG] for found in pictures if found["components"]
    ]
    return median(shares) if shares else None


def _pictures(of: _Gathered, folder: Path, settings: Settings) -> tuple[str, ...]:
    """Write a contestant's kept pictures as PNG files; returns their names relative to the folder."""
    (folder / "pictures").mkdir(exist_ok=True)
    names = []
    for index, file in enumerate(of.kept(settings).pictures):
        name = f"pictures/{of.name.replace(':', '-')}-{index}.png"
        with new_file(folder / name) as place:
            Image.fromarray(read_arrays(file)["images"][0]).save(place, format="PNG")
        names.append(name)
    return tuple(names)
