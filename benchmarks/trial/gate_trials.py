"""Does the gate hold what it promises? Unchanged code, code slowed down on purpose, and weights spoilt on purpose.

`python -m latentrt.benchmarks.trial.gate_trials BUNDLE` measures the demo bundle once as the baseline, then again and
again each way, as `latentrt bench BUNDLE --baseline ... --max-slowdown 5% --min-psnr 40` does, and writes
`results/gate.json`. The slowdown is real: `slowed_worker.py` keeps the cores busy after each call of a network.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import load_file, save_file

from latentrt.benchmarks.contestants import environments, registry
from latentrt.commands.guard import guarded
from latentrt.engines.bundle import Bundle, sha256
from latentrt.engines.manifest import FILE_NAME, UNET, FileRecord

from ..contestants.remote import Remote
from ..gpu_libraries import environment as variables
from ..machine import write_result
from .choose import Counts, Wishes, choose_settings
from .contender import Contender, Equipped, Process
from .gate import FURTHER, Finding, Limits, judge, undecided
from .measure import measure
from .progress import Silent
from .results import Results, Settings

ENGINE = "latentrt:onnxruntime"
SLOWER = 0.10
LIMITS = Limits(max_slowdown=0.05, min_psnr=40.0)
SPOILT = "up_blocks.1.resnets.0.conv1.weight"  # of the UNet: one layer of many
NOISE = 0.5  # of the layer's own spread, added to it

PROTOCOL = f"""The demo bundle, {ENGINE}, a process for each turn. A baseline of {FURTHER} times as many turns is
measured once, then each way as often as stated, one after another, in turn: unchanged; each call of a network followed
by other work of {SLOWER:.0%} of its time; one layer of the UNet ({SPOILT}) with noise of {NOISE:g} of its own spread
added. Limits: {LIMITS.max_slowdown:.0%} slower, {LIMITS.min_psnr:g} dB. A gate in doubt takes further turns, up to
{FURTHER} times as many as asked for."""


@dataclass(frozen=True)
class Way:
    """One way to run: a bundle, and how much each call of a network is slowed down."""

    name: str
    bundle: Path
    slower: float = 0.0


def main() -> None:
    """Run all ways in turn, so that a drift of the machine meets all alike; write what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=20, help="unchanged, and slowed down")
    parser.add_argument("--spoilt", type=int, default=5, help="with a spoilt layer")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--pictures", type=int, default=None)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        spoilt = spoil(words.bundle, place / "spoilt")
        ways = [Way("unchanged", words.bundle), Way("slowed", words.bundle, SLOWER), Way("spoilt", spoilt)]
        wishes = Wishes(steps=words.steps, sampler="euler", guidance_scale=7.5)
        counts = Counts(rounds=words.rounds, pictures=words.pictures, cold_starts=0, calls=0)
        settings = {way.name: choose_settings(Bundle.open(way.bundle), (ENGINE,), wishes, counts) for way in ways}
        asked = settings["unchanged"]
        more = msgspec.structs.replace(asked, rounds=FURTHER * asked.rounds)
        baseline = _run(ways[0], more, place / "baseline", lambda _: False)
        runs: dict[str, list[dict[str, Any]]] = {way.name: [] for way in ways}
        for index in range(words.runs):
            for way in ways[: 3 if index < words.spoilt else 2]:
                runs[way.name].append(_held(baseline, way, settings[way.name], place / f"{way.name}-{index}"))
                print(way.name, json.dumps(runs[way.name][-1]), file=sys.stderr, flush=True)
            _write(asked, baseline, runs)  # what was measured so far stays, whatever comes


def _write(asked: Settings, baseline: Results, runs: dict[str, list[dict[str, Any]]]) -> None:
    told = {name: {"runs": len(found), "failed": sum(run["failed"] for run in found)} for name, found in runs.items()}
    figures: dict[str, Any] = {
        "summary": told,
        "pictures, each run": asked.rounds * asked.pictures,
        "steps": asked.num_inference_steps,
        "baseline": _told(baseline),
        "runs": runs,
    }
    write_result("gate", figures, " ".join(PROTOCOL.split()))


def spoil(bundle: Path, target: Path) -> Path:
    """A copy whose UNet has noise added to one layer, with a manifest that says so: only the pictures can tell."""
    shutil.copytree(bundle, target, ignore=shutil.ignore_patterns("engines"))
    manifest = Bundle.open(target).manifest
    [name] = manifest.components[UNET].weights
    weights = load_file(target / name)
    layer = weights[_layer(weights)]
    layer += NOISE * layer.std() * np.random.default_rng(0).standard_normal(layer.shape).astype(layer.dtype)
    save_file(weights, target / name)
    record = FileRecord(size=(target / name).stat().st_size, sha256=sha256(target / name))
    changed = msgspec.structs.replace(manifest, files=manifest.files | {name: record})
    (target / FILE_NAME).write_bytes(changed.to_json())
    return target


def _layer(weights: dict[str, Any]) -> str:
    [name] = [name for name in weights if name.endswith(SPOILT)]
    return name


def _held(baseline: Results, way: Way, settings: Settings, folder: Path) -> dict[str, Any]:
    """One run held against the baseline: what the gate said, and what it took."""

    def judged(results: Results) -> list[Finding]:
        return judge(baseline, results, LIMITS)

    started = time.monotonic()
    results = _run(way, settings, folder, lambda found: undecided(judged(found)))
    findings = judged(results)
    return {
        "failed": any(finding.failed for finding in findings),
        "said": [finding.words for finding in findings],
        "seconds": round(time.monotonic() - started),
        **_told(results),
    }


def _told(results: Results) -> dict[str, Any]:
    samples = results.contestants[ENGINE].latency["prompt to PNG bytes"].samples
    return {
        "turns": len(samples) // results.settings.pictures,
        "p50, s": float(f"{np.median(samples):.4g}"),
        "others, cores": results.conditions.others,
    }


def _run(way: Way, settings: Settings, folder: Path, doubt: Callable[[Results], bool]) -> Results:
    contender = Contender(ENGINE, ENGINE, lambda _report: _equipped(way))
    most = FURTHER * settings.rounds
    return measure(Bundle.open(way.bundle), settings, [contender], folder, Silent(), doubt=doubt, most_rounds=most)


def _equipped(way: Way) -> Equipped:
    entry = registry.contestant(ENGINE)
    python, environment = environments.environment(entry, Path(), None, lambda _: None)

    def start(log: Path) -> Process:
        command = [str(python), "-m", "latentrt.benchmarks.trial.slowed_worker"]
        return Remote(command, log, variables())

    return Equipped(environment, start, way.bundle, entry.options | {"slower": way.slower})


if __name__ == "__main__":
    sys.exit(guarded(main))
