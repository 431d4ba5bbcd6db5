"""What a trial gives: `results.json`, in a versioned schema, with everything that is needed to repeat it.

Times are seconds, sizes bytes. Every sample is kept, so that whoever reads it can compute what is not here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from latentrt.engines.atomic import new_file
from latentrt.engines.errors import InputError

VERSION = 1
Scope = Literal["prompt to PNG bytes", "denoise+decode"]
PROMPT_TO_PNG: Scope = "prompt to PNG bytes"
DENOISE_DECODE: Scope = "denoise+decode"
Metric = Literal["max abs", "relative L2", "cosine", "PSNR, dB", "SSIM"]
MOST_PSNR = 200.0  # dB, of equal arrays: JSON has no infinity


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was asked for. Two trials compare where these agree.

    Attributes:
        bundle: SHA-256 of the bundle's manifest.
        model: SHA-256 of the checkpoint that the bundle was exported from, where the bundle tells.
        source: SHA-256 of the checkpoint that the peers run, where there is one.
        contestants: names, in the order in which they take turns first.
        prompts: of the pictures, in turn.
        seed: of the first prompt's noise; the next prompt's is one more.
        rounds: turns that each contestant takes.
        pictures: that count in each turn, after one that does not.
        cold_starts: processes that are started for one picture each.
        calls: of each component that count in each turn; 0 times none.
        batches: pictures drawn at once, for the batch curve.
        concurrency: clients that ask again when they are answered, for the concurrency curve.
        threads: that every contestant is told to use; None leaves it to them.
        time_limit: seconds that one order to a contestant may take.
    """

    bundle: str
    model: str | None = None
    source: str | None = None
    contestants: tuple[str, ...]
    prompts: tuple[str, ...]
    negative_prompt: str = ""
    num_inference_steps: Annotated[int, msgspec.Meta(ge=1)]
    guidance_scale: float
    sampler: str
    width: int
    height: int
    seed: int = 0
    rounds: Annotated[int, msgspec.Meta(ge=1)]
    pictures: Annotated[int, msgspec.Meta(ge=0)]
    cold_starts: int = 0
    calls: int = 0
    batches: tuple[int, ...] = ()
    concurrency: tuple[int, ...] = ()
    threads: int | None = None
    time_limit: float = 600.0


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Seconds of one thing: every sample in the order taken, their percentiles, and the median's 95 % interval."""

    samples: tuple[float, ...]
    p50: float
    p90: float
    p99: float
    low: float
    high: float


class Point(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One point of a curve: pictures drawn at once, or clients, and what came of it."""

    count: int
    pictures_per_second: Timing  # its samples are rates, one of each turn
    latency: Timing | None = None  # of single requests, where clients asked


class Spread(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A metric over the prompt set: the middle one, and the worst."""

    p50: float
    worst: float


Compared = dict[Metric, Spread]


class Accuracy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How far a contestant is from the reference: the same feeds, the same start noise.

    Attributes:
        reference: the contestant that gave it, or "golden" for the bundle's recorded answers.
        components: of one call of each network.
        steps: of the latents after each step.
        latents: of the final latents.
        picture: of the 8-bit picture; max abs is in its 256 levels.
        note: why something is missing, such as that a contestant takes no start noise.
    """

    reference: str
    components: dict[str, Compared] = {}
    steps: tuple[Compared, ...] = ()
    latents: Compared | None = None
    picture: Compared | None = None
    note: str | None = None


class Environment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a contestant ran: what was asked of pip, the versions that came, and their size on disk."""

    python: str
    requirements: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    installed: int | None = None


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Peak resident set of the contestant's process (mapped files that were read count), and of the GPU."""

    rss: int
    gpu: int | None = None


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the machine was doing meanwhile.

    Attributes:
        others: cores' worth of time that other processes took, on average.
        worst_others: the same, in the worst turn.
        swapped: bytes that went to or came from swap.
        throttled: times that a core said it was too hot.
        megahertz: least and greatest clock of a core that was seen, where the system tells.
        gpu_megahertz: the same of a GPU.
        noisy: what makes the figures doubtful, in words; empty for a quiet run.
    """

    others: float
    worst_others: float
    swapped: int = 0
    throttled: int = 0
    megahertz: tuple[float, float] | None = None
    gpu_megahertz: tuple[float, float] | None = None
    noisy: tuple[str, ...] = ()


class Contestant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One contestant's figures; those that it could not give, and the reason why, are missing.

    Attributes:
        state: "measured", or "failed" with the `reason`. What was measured before it failed stays.
        opening: a process that has started -> ready for a prompt.
        cold_start: process start -> first picture.
        latency: warm, of a whole picture, by scope.
        components: warm, of one call of each network.
        parts: seconds of one picture that its calls of each network take.
        yardstick: of a fixed piece of work beside each picture of `latency`, in the same order: what a core could do at
            the time.
        others: cores' worth of time that other processes took while each of these was drawn.
        processor: seconds of one core that the contestant itself took for each of these.
        inside: share of "prompt to PNG bytes" that is spent inside networks.
        files: bytes of the model as this contestant has it on disk.
        quality: figures of the pictures themselves, such as "adherence" (a share) or "CLIP score".
    """

    state: Literal["measured", "failed"]
    reason: str | None = None
    title: str
    environment: Environment
    opening: Timing | None = None
    cold_start: Timing | None = None
    latency: dict[Scope, Timing] = {}
    components: dict[str, Timing] = {}
    parts: dict[str, float] = {}
    yardstick: Timing | None = None
    others: tuple[float, ...] = ()
    processor: tuple[float, ...] = ()
    inside: float | None = None
    batches: tuple[Point, ...] = ()
    concurrency: tuple[Point, ...] = ()
    memory: Memory | None = None
    files: int | None = None
    accuracy: Accuracy | None = None
    quality: dict[str, float] = {}
    notes: tuple[str, ...] = ()


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The machine, and the driver of its GPU."""

    processor: str
    cores: int
    memory: int
    system: str
    gpu: str | None = None
    driver: str | None = None


class Results(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One trial.

    Attributes:
        version: of this schema.
        started: UTC, ISO 8601.
        seconds: that it took, pauses left out.
        latentrt: the version.
        yardstick: the fixed piece of work beside the pictures, and what it ran on; where two trials agree in it, their
            times compare relative to it.
        floor: the contestant, such as "torch-bf16", whose distance to the reference is the noise floor.
        pictures: by contestant, the files of its pictures beside the results, one for each prompt.
    """

    version: int = VERSION
    started: str
    seconds: float
    latentrt: str
    machine: Machine
    conditions: Conditions
    settings: Settings
    contestants: dict[str, Contestant]
    yardstick: str | None = None
    floor: str | None = None
    pictures: dict[str, tuple[str, ...]] = {}


def read_results(file: Path) -> Results:
    """Read `results.json`.

    Raises:
        InputError: there is none, it is damaged, or it was written by another version of the schema.
    """
    try:
        data = file.read_bytes()
        version = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("version", msgspec.Raw(b"0"))
        if bytes(version) != str(VERSION).encode():
            raise InputError(
                f"{file} is in version {bytes(version).decode()} of the results, and this latentrt reads {VERSION}: "
                "measure it again"
            )
        return msgspec.json.decode(data, type=Results)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}; name a results.json of 'latentrt bench'") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no results.json of 'latentrt bench': {error}") from error


def write_results(results: Results, file: Path) -> None:
    """Write `results.json`, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with new_file(file) as place:
        place.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
