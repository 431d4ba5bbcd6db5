"""What is needed to judge a report and to repeat it: conditions, settings, and environments, as tables."""

from __future__ import annotations

from ..trial.results import Results
from . import words
from .table import Table, ordered


def heading(results: Results) -> str:
    """What was drawn, in one line."""
    asked, counted = results.settings, words.counted
    drawn = f"{counted(asked.num_inference_steps, 'step')} of {asked.sampler}, guidance {asked.guidance_scale:g}"
    often = f"{counted(asked.rounds, 'round')} of {counted(asked.pictures, 'picture')}"
    return f"{asked.width}x{asked.height} pixels, {drawn}, {counted(len(asked.prompts), 'prompt')}, {often}"


def machine(results: Results) -> Table:
    """The machine, and what it was doing meanwhile."""
    found, meanwhile = results.machine, results.conditions
    clock = "not told by this system"
    if meanwhile.megahertz is not None:
        clock = f"{meanwhile.megahertz[0]:.0f} to {meanwhile.megahertz[1]:.0f} MHz"
    rows = [
        ("processor", f"{found.processor}, {words.counted(found.cores, 'core')}, {words.size(found.memory)} of memory"),
        ("system", found.system),
        ("GPU", "none" if found.gpu is None else f"{found.gpu}, driver {found.driver or 'unknown'}"),
        ("other processes", f"{meanwhile.others:.2f} cores on average, {meanwhile.worst_others:.2f} in the worst turn"),
        ("swapped", words.size(meanwhile.swapped)),
        ("too hot", "never" if not meanwhile.throttled else f"{meanwhile.throttled} times"),
        ("clock", clock),
        ("noisy", "; ".join(meanwhile.noisy) or "no"),
        ("measured", f"{results.started}, in {results.seconds / 60:.1f} minutes, by latentrt {results.latentrt}"),
    ]
    return Table("Machine and conditions", ("what", "found"), tuple(rows), numeric=False)


def settings(results: Results) -> Table:
    """Everything that was asked for."""
    asked = results.settings
    every = (
        ("bundle, SHA-256 of its manifest", asked.bundle),
        ("checkpoint of the peers, SHA-256", asked.source or "none"),
        ("contestants", ", ".join(asked.contestants)),
        ("size", f"{asked.width}x{asked.height}"),
        ("steps and sampler", f"{asked.num_inference_steps} of {asked.sampler}"),
        ("guidance scale", f"{asked.guidance_scale:g}"),
        ("negative prompt", asked.negative_prompt or "empty"),
        ("seed", f"{asked.seed}, and one more for each prompt"),
        ("rounds", f"{asked.rounds}, of {words.counted(asked.pictures, 'picture')} each after one that does not count"),
        ("cold starts", str(asked.cold_starts)),
        ("calls of each network a round", str(asked.calls)),
        ("batches", ", ".join(map(str, asked.batches)) or "none"),
        ("clients", ", ".join(map(str, asked.concurrency)) or "none"),
        ("threads", "as each contestant likes" if asked.threads is None else str(asked.threads)),
        ("time limit of one order", f"{asked.time_limit:g} s"),
        *((f"prompt {number}", prompt or "empty") for number, prompt in enumerate(asked.prompts, 1)),
    )
    return Table("Settings", ("setting", "value"), every, numeric=False)


def environments(results: Results) -> Table:
    """What each contestant ran with."""
    rows = []
    for name, one in ordered(results):
        found = one.environment
        versions = ", ".join(f"{package} {version}" for package, version in found.versions.items())
        asked = " ".join(found.requirements)
        rows.append((name, one.title, found.python, versions or words.NONE, asked or words.NONE))
    head = ("contestant", "what it is", "Python", "versions", "asked of pip")
    return Table("Environments", head, tuple(rows), numeric=False)
