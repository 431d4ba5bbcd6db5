"""From what a user asks to the settings of a trial: what is not said depends on the size of the pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import InputError
from latentrt.engines.size import Size, check_size
from latentrt.export.demo.scenes import plain_caption
from latentrt.runtime.request import Request, plan

from ..quality.adherence import held_out
from .results import Settings

SMALL = 192 * 192  # pixels: up to here a picture takes well under a second on a CPU
CAPTIONS = 8  # of the demo model's world, none of them seen in training: whether a picture shows one can be checked
PROMPTS = (
    "a photograph of an astronaut riding a horse",
    "a lighthouse on a cliff at sunset, oil painting",
    "a bowl of ripe oranges on a wooden table",
)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much is measured; None is chosen by the size of the pictures."""

    rounds: int | None = None
    pictures: int | None = None
    cold_starts: int | None = None
    calls: int | None = None


_FOR_SMALL = Counts(rounds=8, pictures=12, cold_starts=3, calls=10)
_FOR_LARGE = Counts(rounds=3, pictures=1, cold_starts=2, calls=2)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a user says of the pictures."""

    steps: int
    sampler: str
    guidance_scale: float
    size: Size | None = None
    prompts: Path | None = None
    seed: int = 0


def choose_settings(
    bundle: Bundle,
    contestants: tuple[str, ...],
    wishes: Wishes,
    counts: Counts,
    *,
    source: str | None = None,
    batches: tuple[int, ...] = (),
    concurrency: tuple[int, ...] = (),
    threads: int | None = None,
    time_limit: float = 600.0,
) -> Settings:
    """The settings of a trial, checked against the bundle; `source` is the SHA-256 of the peers' checkpoint.

    Raises:
        InputError: something is out of range, or the source is of another model than the bundle.
    """
    model = bundle.manifest.model
    width, height = wishes.size or (model.default_size, model.default_size)
    check_size((width, height), model.size_multiple)
    small = width * height <= SMALL
    if wishes.prompts is not None:
        prompts = _read_prompts(wishes.prompts)
    else:
        prompts = tuple(map(plain_caption, held_out(CAPTIONS))) if small else PROMPTS
    usual = _FOR_SMALL if small else _FOR_LARGE
    found = Settings(
        bundle=bundle.hash,
        model=bundle.manifest.provenance.get("source.sha256"),
        source=source,
        contestants=contestants,
        prompts=prompts,
        num_inference_steps=wishes.steps,
        guidance_scale=wishes.guidance_scale,
        sampler=wishes.sampler,
        width=width,
        height=height,
        seed=wishes.seed,
        rounds=_or(counts.rounds, usual.rounds),
        pictures=_or(counts.pictures, usual.pictures),
        cold_starts=_or(counts.cold_starts, usual.cold_starts),
        calls=_or(counts.calls, usual.calls),
        batches=_counted("--batch", batches),
        concurrency=_counted("--concurrency", concurrency),
        threads=threads,
        time_limit=time_limit,
    )
    _check(bundle, found)
    return found


def _check(bundle: Bundle, settings: Settings) -> None:
    for prompt in settings.prompts:
        request = Request(
            prompt=prompt,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            sampler=settings.sampler,
            width=settings.width,
            height=settings.height,
            seed=settings.seed,
        )
        plan(request, bundle.manifest)
    if settings.source is not None and settings.model is not None and settings.source != settings.model:
        raise InputError(
            f"--source has SHA-256 {settings.source[:12]}..., and the bundle was exported from that with "
            f"{settings.model[:12]}...: the peers would run another model; give the one that the bundle is of"
        )


def _or(given: int | None, usual: int | None) -> int:
    chosen = usual if given is None else given
    assert chosen is not None
    return chosen


def _counted(option: str, counts: tuple[int, ...]) -> tuple[int, ...]:
    if any(count < 1 for count in counts) or len(set(counts)) < len(counts):
        raise InputError(f"{option} is a list of different counts, each 1 or more; got {','.join(map(str, counts))}")
    return counts


def _read_prompts(file: Path) -> tuple[str, ...]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(
            f"cannot read {file}: {error.strerror}; --prompts names a file with a prompt a line"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text in UTF-8: {error}; --prompts names a file with a prompt a line") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise InputError(f"{file} has no prompts: --prompts names a file with a prompt a line")
    return prompts
