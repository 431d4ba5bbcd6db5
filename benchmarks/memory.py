"""What open engines take, beside what `engines/footprint.py` says they do.

`python -m latentrt.benchmarks.memory BUNDLE [ENGINE_DIR]` prints a line for each engine and size, each in a process of
its own; with `--one` it is that process. Its figures are where the constants of `APPETITES` come from.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from latentrt.engines.bundle import Bundle
from latentrt.engines.calls import call_shapes
from latentrt.engines.choice import Wanted, choices
from latentrt.engines.footprint import APPETITES, footprint
from latentrt.engines.manifest import UNET
from latentrt.engines.process_memory import give_back, peak_bytes, resident_bytes
from latentrt.engines.tensor import resolve_shape

SIDES = {UNET: (256, 384, 512), "vae_decoder.kl-f8": (256, 512, 768)}
ROWS = {UNET: (1, 2), "vae_decoder.kl-f8": (1,)}
ENGINES = [name for name, takes in APPETITES.items() if not takes.gpu and name != "fake"]


def main() -> None:
    """Measure every engine and size in turn; or with `--one` the one that is named."""
    if sys.argv[1] == "--one":
        print(json.dumps(_measured(*sys.argv[2:])))
        return
    where = [sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else str(Path(sys.argv[1]) / "engines")]
    for engine in ENGINES:
        for component, sides in SIDES.items():
            for rows in ROWS[component]:
                for side in sides:
                    words = [*where, engine, component, str(rows), str(side)]
                    command = [sys.executable, "-m", "latentrt.benchmarks.memory", "--one", *words]
                    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                    print(engine, component, f"{rows} rows {side}x{side}", found.strip(), flush=True)


def _measured(folder: str, engine_dir: str, engine: str, component: str, rows: str, side: str) -> dict[str, int]:
    """MB: said and found, open and at the peak of two calls, and what stays when it is closed."""
    bundle = Bundle.open(folder, Path(engine_dir))
    [choice, *_] = choices(bundle, component, Wanted(engine=engine))
    said = footprint(choice)
    bound = call_shapes(bundle, component, (int(side), int(side))) | {"rows": int(rows)}
    before = resident_bytes()
    with choice.open() as opened:
        opening = peak_bytes()
        feeds = {spec.name: np.ones(resolve_shape(spec.shape, bound), spec.dtype) for spec in opened.inputs}
        for _ in range(2):
            opened.run(feeds)
        peak = peak_bytes()
    del opened
    give_back()
    figures = {
        "said open": said.appetite.library + said.held + said.opening,
        "found open": opening - before,
        "said": said.appetite.library + said.held + max(said.opening, said.working(bound)),
        "found": peak - before,
        "left": resident_bytes() - before,
    }
    return {name: round(amount / 1e6) for name, amount in figures.items()}


if __name__ == "__main__":
    main()
