"""Which contestant does what, and when: turns go A B C, C B A, so that a drift of the machine meets all alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from latentrt.engines.manifest import TEXT_ENCODER, UNET

from .results import Settings

PICTURE, COLD_START, OPENING, MEMORY = "picture", "cold start", "opening", "memory"
KEPT = "kept"  # the pictures, by prompt, that accuracy is computed from
GOLDEN = "golden"  # those that the bundle has PyTorch's own of, and its name as a reference
COMPONENT, BATCH, CLIENTS = "component", "batch", "clients"
REQUESTS = 2  # of each client, in a turn
WARMING_CALLS = 1
VAE_DECODER = "vae_decoder"
NETWORKS = (TEXT_ENCODER, UNET, VAE_DECODER)  # as contestants call them, whichever decoder it is


@dataclass(frozen=True)
class Task:
    """One thing to measure: `what` as the journal names it, the `subject` (a component) or `count` that it is of."""

    what: str
    index: int = 0
    subject: str = ""
    count: int = 0


def turns(contestants: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Each turn's number and contestant, in their order: A B C, C B A, A B C, ..."""
    for number in range(rounds):
        for name in contestants if number % 2 == 0 else reversed(contestants):
            yield number, name


def tasks(settings: Settings, components: Sequence[str], number: int) -> list[Task]:
    """What a contestant does in its turn, after the picture that does not count. The first turn keeps pictures."""
    kept = [Task(KEPT, i) for i in range(len(settings.prompts))] if number == 0 else []
    return [
        *kept,
        *(Task(PICTURE, i) for i in range(settings.pictures)),
        *(Task(f"{COMPONENT} {name}", subject=name) for name in components if settings.calls),
        *(Task(f"{BATCH} {count}", count=count) for count in settings.batches),
        *(Task(f"{CLIENTS} {count}", count=count) for count in settings.concurrency),
        Task(MEMORY),
    ]
