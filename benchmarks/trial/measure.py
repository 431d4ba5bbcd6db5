"""A trial from its settings to its results, in a folder: one at a time on a machine, begun anew or gone on with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import OutputError
from latentrt.engines.version import __version__

from . import yardstick
from .contender import Contender
from .here import this_machine
from .inputs import make_inputs
from .journal import NAME as JOURNAL
from .journal import Header, open_journal
from .kept import Kept
from .lock import one_trial
from .progress import Progress
from .recorded import Recorded, recorded
from .results import Results, Settings, write_results
from .run import Trial
from .summary import REFERENCE, summarise

RESULTS = "results.json"
_OURS = ("inputs", "kept", "logs", "pictures", "recorded", RESULTS, "report.md", "report.html", JOURNAL)
Doubt = Callable[[Results], bool]


def measure(
    bundle: Bundle,
    settings: Settings,
    contenders: Sequence[Contender],
    folder: Path,
    progress: Progress,
    *,
    fresh: bool = False,
    doubt: Doubt | None = None,
    most_rounds: int = 0,
) -> Results:
    """Measure what is not yet in the folder's journal; writes `results.json` and the pictures beside it.

    Args:
        bundle: whose recorded answers are the reference where no fp32 PyTorch takes part.
        settings: what is asked for.
        contenders: those that `settings.contestants` names.
        folder: made where it is not there.
        progress: hears of what is done.
        fresh: throw away what the folder has of an earlier trial.
        doubt: whether results leave something open that further turns may settle, up to `most_rounds` in all.
        most_rounds: at which it ends in any case.

    Raises:
        InputError: the folder has a trial of other settings.
        OutputError: nothing can be written there, or it holds something else.
        EngineError: another trial runs on this machine.
    """
    with one_trial(str(bundle.root)):
        _make_folder(folder, fresh)
        header = Header(
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            latentrt=__version__,
            machine=this_machine(),
            yardstick=yardstick.told(),
            settings=settings,
        )
        with open_journal(folder, header) as journal:
            inputs = make_inputs(bundle, settings, folder / "inputs")
            with Trial(contenders, inputs, journal, folder, progress) as trial:
                found = _Reference(bundle, folder / "recorded", trial)
                trial.run(found)
                results = summarise(folder, found.kept)
                for number in range(settings.rounds, most_rounds):
                    if doubt is None or not doubt(results):
                        break
                    trial.further(number)
                    results = summarise(folder, found.kept)
    write_results(results, folder / RESULTS)
    return results


class _Reference:
    """The bundle's recorded answers, where they are needed: no fp32 PyTorch took part, or it failed."""

    def __init__(self, bundle: Bundle, folder: Path, trial: Trial) -> None:
        self._bundle, self._folder, self._trial = bundle, folder, trial
        self._found: Recorded | None = None

    def __call__(self) -> Recorded | None:
        if REFERENCE not in self._trial.standing:
            self._found = recorded(self._bundle, self._folder)
        return self._found

    @property
    def kept(self) -> Kept | None:
        """The answers themselves."""
        return None if self._found is None else self._found.kept


def _make_folder(folder: Path, fresh: bool) -> None:
    """See that a trial can be written there, before anything is measured."""
    try:
        folder.mkdir(exist_ok=True)
        there = set(os.listdir(folder))  # noqa: PTH208 - names are all that is asked for
        if there and JOURNAL not in there:
            raise OutputError(f"cannot write {folder}: it is there and holds no bench; choose another folder with -o")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write {folder}: no permission to write there; choose another folder with -o")
        for name in _OURS if fresh else ():
            place = folder / name
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
    except OSError as error:
        reason = (
            "its parent does not exist; create it first" if isinstance(error, FileNotFoundError) else error.strerror
        )
        raise OutputError(f"cannot write {folder}: {reason or error}; choose another folder with -o") from error
