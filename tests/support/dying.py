"""A replica whose engines die while a file is there: in a process of Ray's, which a test reaches by nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from latentrt import Pipeline
from latentrt.engines.errors import EngineError
from latentrt.engines.tensor import Feeds
from latentrt.runtime.serve.opening import Opening
from latentrt.runtime.serve.ray_arguments import RayArguments


@dataclass(frozen=True, kw_only=True)
class DyingOpening(Opening):
    """Opens pipelines whose UNet fails while `died` is there."""

    died: Path

    def __call__(self) -> Pipeline:
        pipeline = Pipeline.open(self.path, engine="fake")
        unet = pipeline.engines["unet"]
        run = unet.run

        def run_or_die(feeds: Feeds) -> dict[str, NDArray[Any]]:
            if self.died.exists():
                raise EngineError("the device was lost")
            return run(feeds)

        unet.run = run_or_die  # type: ignore[method-assign]
        return pipeline


class DyingArguments(RayArguments, frozen=True, kw_only=True):
    died: str

    def opening(self) -> Opening:
        return DyingOpening(path=Path(self.bundle), wanted=super().opening().wanted, died=Path(self.died))
