"""Trials of real processes: turns, faults, a stop in the middle and going on, and what comes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from latentrt.benchmarks.trial.contender import Contender
from latentrt.benchmarks.trial.journal import NAME as JOURNAL
from latentrt.benchmarks.trial.journal import Measured, read_journal
from latentrt.benchmarks.trial.measure import RESULTS, measure
from latentrt.benchmarks.trial.plan import turns
from latentrt.benchmarks.trial.progress import Silent
from latentrt.benchmarks.trial.results import Contestant, Results, Settings, read_results
from latentrt.benchmarks.trial.summary import summarise
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import InputError, OutputError
from support.formula import contender, small

# a trial in a process of its own: `torch` and `latentrt` take a while over each picture, on a clock that counts
ALONE = """
import sys
from pathlib import Path
from support.formula import contender, small
from latentrt.benchmarks.trial.measure import measure
from latentrt.benchmarks.trial.progress import Silent
from latentrt.engines.bundle import Bundle
bundle, folder, sleep = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
contenders = [contender("torch", sleep=sleep), contender("latentrt", sleep=sleep, error=1e-3)]
settings = small("torch", "latentrt", pictures=3, batches=(2,), cold_starts=1)
measure(Bundle.open(bundle), settings, contenders, folder, Silent())
"""


class Listener(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.said: list[str] = []

    def doing(self, words: str) -> None:
        self.did.append(words)

    def say(self, line: str) -> None:
        self.said.append(line)


def trial(bundle: Path, folder: Path, settings: Settings, *contenders: Contender, **others: Any) -> Results:
    progress = others.pop("progress", Silent())
    return measure(Bundle.open(bundle), settings, contenders, folder, progress, **others)


def alone(bundle: Path, folder: Path, sleep: float) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", ALONE, str(bundle), str(folder), str(sleep)]
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        words, env=os.environ | {"PYTHONPATH": paths, "TMPDIR": tempfile.gettempdir()}, start_new_session=True
    )


def measured(folder: Path) -> list[Measured]:
    return [line for line in read_journal(folder)[1] if isinstance(line, Measured)]


def until(done: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_contestants_take_turns_so_that_a_drift_meets_all_alike() -> None:
    order = [name for _, name in turns(("a", "b", "c"), 3)]
    assert "".join(order) == "abccbaabc"


def test_a_trial_gives_every_figure_and_can_be_summed_up_again(demo_bundle: Path, tmp_path: Path) -> None:
    wanted = small("torch", "latentrt", cold_starts=1, batches=(1, 2), concurrency=(2,))
    contenders = [contender("torch"), contender("latentrt", error=1e-3)]
    found = trial(demo_bundle, tmp_path / "out", wanted, *contenders)
    assert read_results(tmp_path / "out" / RESULTS) == found == summarise(tmp_path / "out")
    one = found.contestants["latentrt"]
    assert one.state == "measured"
    assert one.latency.keys() == {"prompt to PNG bytes", "denoise+decode"}
    assert len(one.latency["prompt to PNG bytes"].samples) == 4
    assert one.yardstick is not None
    assert len(one.yardstick.samples) == 4
    assert one.components.keys() == one.parts.keys() == {"text_encoder", "unet", "vae_decoder"}
    assert [len(timing.samples) for timing in one.components.values()] == [4, 4, 4]
    assert one.parts["unet"] == pytest.approx(2 * one.parts["vae_decoder"])  # two steps of a counting clock
    assert [point.count for point in one.batches] == [1, 2]
    assert one.concurrency[0].latency is not None
    assert len(one.concurrency[0].latency.samples) == 8
    assert one.cold_start is not None
    assert one.opening is not None
    assert len(one.opening.samples) == 3  # of the cold start, and of each turn: a process of its own
    assert one.memory is not None
    assert one.memory.rss > 10**6
    assert one.environment.versions["numpy"] == np.__version__
    assert one.accuracy is not None
    assert one.accuracy.reference == "torch"
    assert one.accuracy.latents is not None
    assert one.accuracy.latents["max abs"].worst == pytest.approx(1e-3 / 4, rel=0.01)
    assert found.contestants["torch"].accuracy is None
    assert found.pictures["torch"] == ("pictures/torch-0.png", "pictures/torch-1.png")
    picture = np.asarray(Image.open(tmp_path / "out" / "pictures/torch-1.png"))
    assert picture.std() > 10
    assert not np.array_equal(picture, np.asarray(Image.open(tmp_path / "out" / "pictures/torch-0.png")))


FAULTS: dict[str, tuple[dict[str, Any], str, int]] = {
    "torch": ({"crash at": 5}, "its process ended with code 3", 1),
    "torch-bf16": ({"hang at": 5}, "it took longer than the 2 s", 1),
    "optimum-onnx": ({"refuse": "no such model"}, "RuntimeError: no such model", 0),
    "openvino-genai": ({"absent": "pip could not find it"}, "pip could not find it", 0),
}


def test_contestants_that_fail_say_why_and_the_others_go_on(demo_bundle: Path, tmp_path: Path) -> None:
    progress = Listener()
    contenders = [*(contender(name, **fault) for name, (fault, _, _) in FAULTS.items()), contender("latentrt")]
    wanted = small(*FAULTS, "latentrt", time_limit=2.0)
    found = trial(demo_bundle, tmp_path / "out", wanted, *contenders, progress=progress)
    for name, (_, reason, pictures) in FAULTS.items():
        one = found.contestants[name]
        assert one.state == "failed"
        assert one.reason is not None
        assert reason in one.reason
        assert one.title == name.title()
        assert [line for line in progress.said if line.startswith(f"{name} failed: ") and reason in line]
        assert sum(len(timing.samples) for timing in one.latency.values()) == 2 * pictures  # in two scopes
    other = found.contestants["latentrt"]
    assert other.state == "measured"
    assert len(other.latency["denoise+decode"].samples) == 4
    assert other.accuracy is not None
    assert other.accuracy.reference == "golden"  # PyTorch failed: what the bundle has of it stands in


def test_a_failed_contestant_is_tried_again_when_the_trial_goes_on(demo_bundle: Path, tmp_path: Path) -> None:
    wanted = small("latentrt", "torch")
    first = trial(demo_bundle, tmp_path / "out", wanted, contender("latentrt"), contender("torch", absent="no network"))
    assert first.contestants["torch"].reason == "no network"
    before = len(measured(tmp_path / "out"))
    second = trial(demo_bundle, tmp_path / "out", wanted, contender("latentrt"), contender("torch"))
    assert second.contestants["torch"].state == "measured"
    assert second.contestants["latentrt"].accuracy is not None
    assert second.contestants["latentrt"].accuracy.reference == "torch"
    again = [line for line in measured(tmp_path / "out")[before:] if line.contestant == "latentrt"]
    assert again == []


def test_what_a_contestant_cannot_do_is_a_note_and_no_failure(demo_bundle: Path, tmp_path: Path) -> None:
    wanted = small("latentrt", batches=(1, 4))
    found = trial(demo_bundle, tmp_path / "out", wanted, contender("latentrt", most=2, without="vae_decoder"))
    one = found.contestants["latentrt"]
    assert one.state == "measured"
    assert [point.count for point in one.batches] == [1]
    assert one.components.keys() == {"text_encoder", "unet"}
    assert "batch 4: ValueError: no more than that at once" in one.notes
    assert "component vae_decoder: NotImplementedError: no vae_decoder alone" in one.notes


def figures(contestant: Contestant) -> Any:
    """Those that a counting clock decides, and not the machine."""
    true_clocks: dict[str, Any] = {"opening": None, "cold_start": None, "yardstick": None, "memory": None}
    return msgspec.structs.replace(contestant, **true_clocks, others=(), processor=())


def test_killed_in_the_middle_it_goes_on_and_gives_what_an_unbroken_run_gives(
    demo_bundle: Path, tmp_path: Path
) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    process = alone(demo_bundle, broken, 0.1)
    until(lambda: (broken / JOURNAL).exists() and (broken / JOURNAL).read_bytes().count(b'"picture"') >= 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with (broken / JOURNAL).open("ab") as file:
        file.write(b'{"type":"measured","contestant":"torch","wha')  # torn
    before = len(measured(broken))
    assert before >= 4
    for folder in (broken, whole):
        ended = alone(demo_bundle, folder, 0.0)
        assert ended.wait(timeout=60) == 0
    assert len(measured(broken)) > before
    found = [read_results(folder / RESULTS) for folder in (broken, whole)]
    for name in ("torch", "latentrt"):
        one, other = (figures(results.contestants[name]) for results in found)
        assert one == other
    keys = [line.key for line in measured(broken)]
    assert len(set(keys)) == len(keys)  # nothing was measured twice


def test_a_finished_trial_measures_nothing_more(demo_bundle: Path, tmp_path: Path) -> None:
    wanted, ours = small("latentrt"), contender("latentrt")
    first = trial(demo_bundle, tmp_path / "out", wanted, ours)
    journal = (tmp_path / "out" / JOURNAL).read_bytes()
    progress = Listener()
    assert trial(demo_bundle, tmp_path / "out", wanted, ours, progress=progress) == first
    assert (tmp_path / "out" / JOURNAL).read_bytes() == journal
    assert [words for words in progress.did if "turn" in words] == []


def test_other_settings_are_refused_by_name_and_fresh_begins_anew(demo_bundle: Path, tmp_path: Path) -> None:
    ours = contender("latentrt")
    trial(demo_bundle, tmp_path / "out", small("latentrt"), ours)
    other = small("latentrt", num_inference_steps=1, rounds=1)
    said = "num_inference_steps was 2, now 1; rounds was 2, now 1.*--fresh"
    with pytest.raises(InputError, match=said):
        trial(demo_bundle, tmp_path / "out", other, ours)
    (tmp_path / "out" / "mine.txt").write_text("stays")
    found = trial(demo_bundle, tmp_path / "out", other, ours, fresh=True)
    assert found.settings == other
    assert (tmp_path / "out" / "mine.txt").read_text() == "stays"


def test_doubt_is_settled_by_further_turns_of_pictures(demo_bundle: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def doubt(results: Results) -> bool:
        asked.append(len(results.contestants["latentrt"].latency["denoise+decode"].samples))
        return len(asked) < 3

    ours, wanted = contender("latentrt"), small("latentrt")
    found = trial(demo_bundle, tmp_path / "out", wanted, ours, doubt=doubt, most_rounds=9)
    assert asked == [4, 6, 8]
    assert len(found.contestants["latentrt"].components["unet"].samples) == 4
    always = trial(demo_bundle, tmp_path / "out", wanted, ours, doubt=lambda _: True, most_rounds=5)  # four are there
    assert len(always.contestants["latentrt"].latency["denoise+decode"].samples) == 10


def test_a_trial_that_is_stopped_leaves_no_process(demo_bundle: Path, tmp_path: Path) -> None:
    process = alone(demo_bundle, tmp_path / "out", 30.0)
    until(lambda: (tmp_path / "out" / "logs").exists() and workers_of(process.pid))
    [worker] = workers_of(process.pid)
    time.sleep(0.5)  # it draws
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=15) != 0
    until(lambda: not Path(f"/proc/{worker}").exists())


def workers_of(pid: int) -> list[int]:
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(word) for word in words]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(
    demo_bundle: Path, tmp_path: Path
) -> None:
    wanted, ours = small("latentrt"), contender("latentrt", refuse="must not be started")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    (tmp_path / "file").touch()
    for folder, said in (
        (tmp_path / "no" / "out", "its parent does not exist"),
        (tmp_path / "other", "holds no bench"),
        (tmp_path / "file", "cannot write"),
        (Path("/proc/out"), "cannot write /proc/out"),
    ):
        with pytest.raises(OutputError, match=said):
            trial(demo_bundle, folder, wanted, ours)


def test_a_damaged_journal_is_refused(demo_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / JOURNAL).write_text(json.dumps({"type": "trial", "settings": 3}) + "\n")
    with pytest.raises(InputError, match=r"is damaged.*--fresh"):
        trial(demo_bundle, tmp_path / "out", small("latentrt"), contender("latentrt"))
