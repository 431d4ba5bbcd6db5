"""The backend that both libraries share; each has a module of its own that adds what is different."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from ..backend import Report, built_folder, no_report
from ..bundle import Bundle
from ..engine import Engine
from ..key import EngineKey, component_key
from ..manifest import Precision
from ..options import DEFAULTS, BuildOptions
from ..passes import PASSES
from ..prepared_graph import engine_precision, prepared_graph
from ..profile import profile_text, profiles_for
from ..scratch import Scratch
from . import cuda
from .arena import Arena
from .builder import PlanRequest, build_plan
from .engine import GpuPlace, TensorRtEngine
from .family import Family
from .plan import PLAN


@dataclass(frozen=True)
class FamilyBackend(ABC):
    """Compiles to a plan: strongly typed, fp16 unless asked otherwise, a profile for each shape that is asked for."""

    options: BuildOptions = DEFAULTS
    device: int = 0
    resident: int | None = None  # bytes of weights that stay on the GPU at most, of engines that stream theirs
    scratch: Scratch | None = None  # of the pipeline that engines are opened for
    family: ClassVar[Family]
    name: ClassVar[str]
    takes: ClassVar[frozenset[str]]
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "bf16")

    def key(self, bundle: Bundle, component: str) -> EngineKey:
        """As `Backend.key`.

        Raises:
            InputError: the options do not fit the model.
            EngineError: the GPU to build for is not named, and there is none.
        """
        return component_key(
            bundle,
            component,
            backend=self.name,
            version=self.family.version,
            device=self._device(),
            precision=engine_precision(bundle, component, self.options.precision),
            profile=profile_text(profiles_for(bundle, component, self.options)),
            flags=self._flags(),
        )

    @abstractmethod
    def obstacle(self) -> str | None:
        """As `Backend.obstacle`."""

    def gpu_name(self) -> str:
        """As `GpuBackend.gpu_name`."""
        return cuda.find_gpu(self.device).name

    @abstractmethod
    def _device(self) -> str:
        """What an engine is tied to, in the words of its key."""

    @abstractmethod
    def _timing(self) -> Path | None:
        """The file of measured kernels, where there is one."""

    def _targets(self) -> tuple[str, ...]:
        return ()

    def build(self, bundle: Bundle, component: str, folder: Path, report: Report = no_report) -> None:
        """As `Backend.build`."""
        precision = engine_precision(bundle, component, self.options.precision)
        profiles, opset = profiles_for(bundle, component, self.options), self.family.opset(self.options.opset)
        report("preparing the graph", 0)
        if not self.options.targets:
            cuda.use(self.device)  # the library measures on, or asks, whichever GPU is current
        with tempfile.TemporaryDirectory(dir=folder) as work:  # on the disk that must have room for the plan anyway
            request = PlanRequest(
                component=component,
                graph=prepared_graph(bundle, component, profiles, precision, Path(work), opset),
                inputs=bundle.component(component).inputs,
                profiles=profiles,
                options=self.options,
                full_precision=precision == "fp32",
                targets=self._targets(),
                timing=self._timing(),
            )
            plan = build_plan(self.family, request, report)
        (folder / PLAN).write_bytes(plan)

    def open(self, bundle: Bundle, component: str, folder: Path | None) -> Engine:
        """As `Backend.open`; there is no engine without a build."""
        folder = built_folder(self, bundle, component, folder)
        profiles = profiles_for(bundle, component, self.options)
        key = self.key(bundle, component)
        place = GpuPlace(self.device, self._arena(), self.resident, kernels_file(folder, key))
        return TensorRtEngine(self.family, bundle, component, key, profiles, folder, self.options, place)

    def keeping(self, resident: int) -> Self:
        """As `StreamingBackend.keeping`."""
        return replace(self, resident=resident)

    def sharing(self, scratch: Scratch) -> Self:
        """As `SharingBackend.sharing`: its engines on one GPU have one activation memory."""
        return replace(self, scratch=scratch)

    def _arena(self) -> Arena:
        """The activation memory of an engine: the pipeline's, or its own where there is none."""
        return Arena() if self.scratch is None else self.scratch.get((Arena, self.device), Arena)

    def _flags(self) -> tuple[str, ...]:
        words = [name for name in ("compatible", "refittable", "weight_streaming") if getattr(self.options, name)]
        if self.options.opt_level is not None:
            words.append(f"opt_level={self.options.opt_level}")
        if (opset := self.family.opset(self.options.opset)) is not None:
            words.append(f"opset={opset}")
        return (*words, f"passes={PASSES}")


def kernels_file(folder: Path, key: EngineKey) -> Path | None:
    """Where an engine's compiled kernels are kept: beside its folder, which holds what was built and no more.

    None for a folder that does not have the engine's name, also in the making: it is gone when its engine closes.
    """
    return folder.parent / f"{key.id}.kernels" if key.id in folder.name else None
