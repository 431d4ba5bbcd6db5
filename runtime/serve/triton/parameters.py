"""What a Triton model is told: the `parameters` of its config.pbtxt, where an operator may change them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import InputError

from ..arguments import ServeArguments
from ..opening import Opening
from ..settings import ServeSettings


class Parameters(ServeArguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model opens its bundle, and what it takes in.

    `bundle` and `engine_dir` are folders, relative to that of the model's version.
    """

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
        return self.limits(model_name=model_name, previews=False)

    def open_bundle(self, version: Path) -> Bundle:
        """The bundle; `version` is the folder that model.py lies in."""
        return Bundle.open(version / self.bundle, self._engine_dir(version))

    def opening(self, version: Path, device: int) -> Opening:
        """How the bundle's engines are opened, on the GPU that Triton gave this instance."""
        return self.opening_of(version / self.bundle, self._engine_dir(version), device=device)

    def _engine_dir(self, version: Path) -> Path | None:
        return None if self.engine_dir is None else version / self.engine_dir


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
