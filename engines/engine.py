"""The contract of an engine: one compiled network that declares its tensors, runs, and closes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from .errors import EngineError
from .key import EngineKey
from .manifest import Component
from .tensor import Feeds, TensorSpec, check_feeds


class Engine(ABC):
    """One component, ready to run. A context manager; not to be shared between threads.

    Outputs belong to the caller: an engine never writes to an array it has returned. Inputs are only read, and only
    during `run`.
    """

    def __init__(self, name: str, component: Component, key: EngineKey) -> None:
        self.name = name
        self.inputs: tuple[TensorSpec, ...] = component.inputs
        self.outputs: tuple[TensorSpec, ...] = component.outputs
        self.key = key
        self._closed = False

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Run on arrays of the declared names, dtypes and shapes; returns the outputs by name.

        Raises:
            InputError: a feed does not fit; it names the input, what it expects and what it got.
            EngineError: the backend failed, or the engine is closed.
        """
        if self._closed:
            raise EngineError(f"the {self.name} engine is closed: open the pipeline again")
        check_feeds(self.name, self.inputs, feeds)
        return self._run(feeds)

    def takes(self, feeds: Feeds) -> bool:  # noqa: ARG002 - of those that hold every shape
        """Whether feeds of the declared dtypes and dimensions have shapes that this engine was compiled for."""
        return True

    def unheld(self, feeds: Feeds) -> str | None:
        """Why the engine does not take feeds of the declared dtypes and dimensions; None where it does."""
        return None if self.takes(feeds) else f"the {self.key.backend} engine of {self.name} does not hold these shapes"

    def key_for(self, feeds: Feeds) -> EngineKey:  # noqa: ARG002 - of those that are a single engine
        """The key of the engine that runs such a call."""
        return self.key

    @abstractmethod
    def _run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Run checked feeds."""

    def close(self) -> None:
        """Give memory and handles back; closing twice is allowed."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
