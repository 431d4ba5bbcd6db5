"""Build one contestant's engine of the full-size UNet, in a process of its own.

`python -m latentrt.benchmarks.engine_builds CONTESTANT BUNDLE`; an engine that is there and whole is not built again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from latentrt.engines import store
from latentrt.engines.manifest import UNET

from .engine_worker import engine_backend
from .unet_bundle import open_unet_bundle


def main() -> None:
    """Build the contestant that the arguments name; PyTorch's recorded answers are asked of it as ever."""
    record, new = store.build(engine_backend(sys.argv[1]), open_unet_bundle(Path(sys.argv[2])), UNET)
    print(f"{sys.argv[1]} {'built' if new else 'is there'}, {record.verification}", file=sys.stderr)


if __name__ == "__main__":
    main()
