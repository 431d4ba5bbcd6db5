"""What a server is told where something else starts it, Ray or Triton: the options of `latentrt serve`, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from latentrt.engines.backend import DEFAULT
from latentrt.engines.choice import Wanted
from latentrt.engines.manifest import Precision
from latentrt.engines.memory_words import parse_memory

from .opening import Opening
from .settings import ServeSettings

_LIMITS = ServeSettings()


class ServeArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Those that every such server has; `bundle` and `engine_dir` are folders, each server says where from."""

    bundle: str
    engine: str = DEFAULT
    precision: Precision | None = None
    engine_dir: str | None = None
    allow_unverified: bool = False
    safety_checker: bool = True
    tile: int | None = None
    memory: str | None = None
    max_rows: int = _LIMITS.max_rows
    max_queue: int = _LIMITS.max_queue
    request_timeout: float = _LIMITS.request_timeout
    stall_timeout: float | None = None
    max_pixels: int = _LIMITS.max_pixels
    max_steps: int = _LIMITS.max_steps
    max_images: int = _LIMITS.max_images
    max_prompt_chars: int = _LIMITS.max_prompt_chars

    def limits(self, **others: Any) -> ServeSettings:
        """The limits, with those of `ServeSettings` that only one kind of server is told.

        Raises:
            InputError: one is out of range.
        """
        return ServeSettings(
            max_rows=self.max_rows,
            max_queue=self.max_queue,
            request_timeout=self.request_timeout,
            stall_timeout=self.stall_timeout,
            max_pixels=self.max_pixels,
            max_steps=self.max_steps,
            max_images=self.max_images,
            max_prompt_chars=self.max_prompt_chars,
            **others,
        )

    def opening_of(
        self,
        path: Path,
        engine_dir: Path | None,
        *,
        device: int = 0,
        threads: int | None = None,
        embeddings: Sequence[str] = (),
    ) -> Opening:
        """How the engines of the bundle at `path` are opened.

        Raises:
            InputError: `memory` is no size.
        """
        return Opening(
            path=path,
            wanted=Wanted(
                engine=self.engine,
                precision=self.precision,
                device=device,
                allow_unverified=self.allow_unverified,
                threads=threads,
            ),
            engine_dir=engine_dir,
            safety_checker=self.safety_checker,
            tile=self.tile,
            memory=None if self.memory is None else parse_memory(self.memory),
            max_rows=self.max_rows,
            embeddings=embeddings,
        )
