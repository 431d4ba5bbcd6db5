"""The two libraries of one family, and what is different about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """One library: its Python module, and how it compiles.

    Attributes:
        name: of the engine, on the command line.
        module: `tensorrt` or `tensorrt_rtx`; both have the same classes.
        ahead_of_time: it builds for named architectures on any machine, and compiles kernels where the plan runs. So it
            has no timing cache (which would ask for a GPU), keeps compiled kernels, and captures CUDA graphs by itself.
    """

    name: str
    module: Any
    ahead_of_time: bool

    @property
    def version(self) -> str:
        """Of the library: `"11.4.0.106"`."""
        return str(self.module.__version__)
