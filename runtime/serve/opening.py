"""How a server's pipeline is opened: at the start, and again after its engines died."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latentrt.engines.choice import Wanted

from ..pipeline import MAX_ROWS, Pipeline
from ..prompt.textual_inversion import path_and_token


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Opens a pipeline whenever it is called.

    Attributes:
        embeddings: textual inversions, each the path of one, or TOKEN=PATH.
    """

    path: Path
    wanted: Wanted
    engine_dir: Path | None = None
    safety_checker: bool = True
    tile: int | None = None
    memory: int | None = None
    max_rows: int = MAX_ROWS
    embeddings: Sequence[str] = ()

    def __call__(self) -> Pipeline:
        """Open it, with its textual inversions; raises as `Pipeline.open` does."""
        pipeline = Pipeline.open(
            self.path,
            engine=self.wanted.engine,
            precision=self.wanted.precision,
            engine_dir=self.engine_dir,
            device=self.wanted.device,
            max_rows=self.max_rows,
            tile=self.tile,
            memory=self.memory,
            safety_checker=self.safety_checker,
            allow_unverified=self.wanted.allow_unverified,
            threads=self.wanted.threads,
        )
        for word in self.embeddings:
            pipeline.load_textual_inversion(*path_and_token(word))
        return pipeline
