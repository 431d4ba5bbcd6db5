"""Two benches at once: the second says who holds the machine, and a dead holder holds nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from latentrt.benchmarks.trial.lock import NAME, one_trial
from latentrt.engines.errors import EngineError, OutputError

HOLD = """
import sys, time
from pathlib import Path
from latentrt.benchmarks.trial.lock import one_trial
with one_trial("a bundle", Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_says_who_holds_it_and_since_when(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    said = rf"another bench runs.*process {holder.pid}, of a bundle, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    with pytest.raises(EngineError, match=said), one_trial("mine", tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with one_trial("mine", tmp_path):  # the system let go of it
        assert str(os.getpid()) in (tmp_path / NAME).with_suffix(".holder").read_text()
    with one_trial("mine again", tmp_path):
        pass


def test_no_place_for_a_lock_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="the lock of a bench"), one_trial("mine", tmp_path / "file"):
        pass
