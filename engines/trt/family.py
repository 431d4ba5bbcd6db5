"""The two libraries of one family, and what is different about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OLD_OPSET = 20  # what a library reads that does not know the Attention operator of opset 23


@dataclass(frozen=True)
class Family:
    """One library: its Python module, and how it compiles.

    Attributes:
        name: of the engine, on the command line.
        module: `tensorrt` or `tensorrt_rtx`; both have the same classes.
        ahead_of_time: it builds for named architectures on any machine, and compiles kernels where the plan runs. So it
            has no timing cache (which would ask for a GPU), keeps compiled kernels, and captures CUDA graphs by itself.
        attention_since: the first release, major and minor, that reads the Attention operator.
    """

    name: str
    module: Any
    ahead_of_time: bool
    attention_since: tuple[int, int]

    @property
    def version(self) -> str:
        """Of the library: `"11.4.0.106"`."""
        return str(self.module.__version__)

    @property
    def release(self) -> tuple[int, ...]:
        """Of the library, major and minor: `(11, 4)`."""
        return tuple(map(int, self.version.split(".")[:2]))

    def opset(self, asked: int | None) -> int | None:
        """The opset to write a bundle's graphs out in: as asked, or what the library reads; None leaves them."""
        return asked or (None if self.release >= self.attention_since else OLD_OPSET)
