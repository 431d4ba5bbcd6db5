"""ONNX Runtime behind the restrictions of a compiler: engines hold the profiles they were built for, and no other.

It stands where TensorRT would: nothing but a build can be opened, and its key names device, precision and profiles.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import pytest

from latentrt.engines import backend as backends
from latentrt.engines import choice
from latentrt.engines import onnxruntime_backend as ort
from latentrt.engines.backend import Report, no_report
from latentrt.engines.bundle import Bundle
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError
from latentrt.engines.key import EngineKey, component_key
from latentrt.engines.options import DEFAULTS, PROFILE_OPTIONS, BuildOptions
from latentrt.engines.profile import Profile, profile_text, profiles_for
from latentrt.engines.profiled import Outputs, ProfiledEngine
from latentrt.engines.scratch import Scratch
from latentrt.engines.tensor import Feeds

GPUS = ["sm80", "sm89"]
CARD = "a GPU"  # which of a kind is in this machine
opened: list[str] = []  # the keys of engines, in the order in which they were opened
shared: list[tuple[int, Scratch | None]] = []  # of each engine opened: the thread, and what it shares with others
resident: dict[str, int | None] = {}  # by component: the bytes of weights that its engine was last let have


class SizedEngine(ProfiledEngine):
    """Profiles in front of an ONNX Runtime session."""

    def __init__(self, bundle: Bundle, key: EngineKey, profiles: Sequence[Profile], inner: Engine) -> None:
        super().__init__(bundle, key.component, key, profiles)
        self._inner = inner

    def _run_profile(self, index: int, feeds: Feeds) -> Outputs:
        return self._inner.run(feeds)

    def close(self) -> None:
        super().close()
        self._inner.close()


@dataclass(frozen=True)
class SizedBackend:
    """A compiler for "GPUs" that are this machine's CPU."""

    options: BuildOptions = DEFAULTS
    device: int = 0
    resident: int | None = None
    scratch: Scratch | None = None
    name: ClassVar[str] = "sized"
    takes: ClassVar[frozenset[str]] = PROFILE_OPTIONS | {"weight_streaming"}
    precisions: ClassVar[tuple[str, ...]] = ("fp16", "fp32")

    def key(self, bundle: Bundle, component: str) -> EngineKey:
        return component_key(
            bundle,
            component,
            backend=self.name,
            version="1",
            device=GPUS[self.device],
            precision=self.options.precision or "fp16",
            profile=profile_text(profiles_for(bundle, component, self.options)),
        )

    def obstacle(self) -> str | None:
        return None

    def gpu_name(self) -> str:
        return CARD

    def build(self, bundle: Bundle, component: str, folder: Path, report: Report = no_report) -> None:
        ort.BACKEND.build(bundle, component, folder, report)

    def open(self, bundle: Bundle, component: str, folder: Path | None) -> Engine:
        if folder is None:
            raise EngineError(f"the sized engine of {component} has to be built")
        key = self.key(bundle, component)
        opened.append(key.id)
        shared.append((threading.get_ident(), self.scratch))
        resident[component] = self.resident
        profiles = profiles_for(bundle, component, self.options)
        return SizedEngine(bundle, key, profiles, ort.BACKEND.open(bundle, component, folder))

    def keeping(self, resident: int) -> Self:
        return replace(self, resident=resident)

    def sharing(self, scratch: Scratch) -> Self:
        return replace(self, scratch=scratch)


BACKEND = SizedBackend()


def register(monkeypatch: pytest.MonkeyPatch) -> SizedBackend:
    """Make it known as "sized", an engine that has to be built."""
    opened.clear()
    shared.clear()
    resident.clear()
    monkeypatch.setitem(backends._MODULES, "sized", "sized_backend")
    monkeypatch.setitem(sys.modules, "latentrt.engines.sized_backend", sys.modules[__name__])
    monkeypatch.setattr(choice, "NEED_BUILDING", choice.NEED_BUILDING | {"sized"})
    return BACKEND
