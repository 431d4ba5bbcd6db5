"""What a Triton model is told: the `parameters` of its config.pbtxt, where an operator may change them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from latentrt.engines.backend import DEFAULT
from latentrt.engines.bundle import Bundle
from latentrt.engines.choice import Wanted
from latentrt.engines.errors import InputError
from latentrt.engines.manifest import Precision
from latentrt.engines.memory_words import parse_memory

from ..opening import Opening
from ..settings import ServeSettings

_LIMITS = ServeSettings()


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model opens its bundle, and what it takes in; as `latentrt serve` has them.

    `bundle` and `engine_dir` are folders, the first relative to that of the model's version.
    """

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

    @classmethod
    def from_words(cls, words: Mapping[str, str]) -> Parameters:
        """Read them from config.pbtxt; keys in capitals are the Python backend's own, such as EXECUTION_ENV_PATH.

        Raises:
            InputError: names the one that is unknown, missing, or no such value.
        """
        ours = {name: value for name, value in words.items() if not name.isupper()}
        try:
            return msgspec.convert(ours, cls, strict=False)
        except msgspec.ValidationError as error:
            raise InputError(f"parameters of config.pbtxt: {error}") from error

    def words(self) -> dict[str, str]:
        """The same as config.pbtxt holds them; what is None is left out."""
        told: dict[str, Any] = msgspec.to_builtins(self)
        return {name: _word(value) for name, value in told.items() if value is not None}

    def settings(self, model_name: str) -> ServeSettings:
        """The limits.

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
            model_name=model_name,
            previews=False,
        )

    def open_bundle(self, version: Path) -> Bundle:
        """The bundle; `version` is the folder that model.py lies in."""
        return Bundle.open(version / self.bundle, self._engine_dir(version))

    def opening(self, version: Path, device: int) -> Opening:
        """How the bundle's engines are opened, on the GPU that Triton gave this instance."""
        return Opening(
            path=version / self.bundle,
            wanted=Wanted(
                engine=self.engine,
                precision=self.precision,
                device=device,
                allow_unverified=self.allow_unverified,
            ),
            engine_dir=self._engine_dir(version),
            safety_checker=self.safety_checker,
            tile=self.tile,
            memory=None if self.memory is None else parse_memory(self.memory),
            max_rows=self.max_rows,
        )

    def _engine_dir(self, version: Path) -> Path | None:
        return None if self.engine_dir is None else version / self.engine_dir


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
