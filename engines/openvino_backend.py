"""OpenVINO on the CPU: runs a bundle's graphs as they are, or as compiled once and stored; in fp32 or bf16.

A build is for all shapes, or for one. Where OpenVINO knows the shapes, it fuses more (products of activations into the
passes beside them), and looks nothing up in a call.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .backend import Report, no_report
from .bundle import Bundle
from .engine import Engine
from .errors import EngineError
from .key import EngineKey, component_key, cpu
from .manifest import Precision
from .openvino_library import device, hint, ov, properties
from .openvino_waves import CUT, cut_waves
from .options import DEFAULTS, PROFILE_OPTIONS, BuildOptions
from .profile import ANY, Profile, profile_text, the_one_profile
from .profiled import Outputs, ProfiledEngine
from .tensor import Feeds

BLOB = "engine.blob"
WAVES = "waves.blob"
_DEVICE = "CPU"
_TYPES = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}
_EXACT = {hint.inference_precision: ov.Type.f32}
_PAGE_OUT = 21  # MADV_PAGEOUT of Linux 5.4, which Python does not name: clean pages go, written ones stay
_REASON = 300  # characters of OpenVINO's own words; it may list a whole graph


@dataclass(frozen=True)
class _Compiled:
    """A component as OpenVINO runs it, and apart from it the waves that it is fed, where it computes them too coarsely.

    `blobs` is the memory that they were imported from. OpenVINO packs weights for the shapes of a call when it first
    sees them, out of that memory, and does not hold it: let go of before the rest, it ends the process.
    """

    main: ov.CompiledModel
    waves: ov.CompiledModel | None
    blobs: tuple[NDArray[np.uint8], ...] = ()


class _Requests:
    """What runs a component that is compiled, until it is let go of."""

    def __init__(self, engine: Engine, compiled: _Compiled) -> None:
        models = [compiled.main] if compiled.waves is None else [compiled.main, compiled.waves]
        self._name, self._outputs = engine.name, [spec.name for spec in engine.outputs]
        self._taken = [{name for port in model.inputs for name in port.names} for model in models]
        given = {name for port in compiled.main.outputs for name in port.names}
        for kind, specs, names in (
            ("input", engine.inputs, set().union(*self._taken)),
            ("output", engine.outputs, given),
        ):
            for spec in specs:
                if spec.name not in names:
                    raise EngineError(f"OpenVINO cannot load {engine.name}: its graph has no {kind} {spec.name!r}")
        self._compiled: _Compiled | None = compiled
        self._requests = [model.create_infer_request() for model in models]
        self._packed: set[tuple[tuple[int, ...], ...]] = set()  # the shapes of calls that weights were packed for

    def run(self, feeds: Feeds) -> Outputs:
        """The waves first, where there are any, then the rest."""
        given = dict(feeds)
        try:
            for request, taken in reversed(list(zip(self._requests, self._taken, strict=True))):
                # copies both ways, so nothing of OpenVINO's is shared
                results = request.infer({name: array for name, array in given.items() if name in taken})
                given |= {name: array for port, array in results.items() for name in port.names}
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed in {self._name}: {_reason(error)}") from error
        self._page_out(tuple(array.shape for array in feeds.values()))
        return {name: given[name] for name in self._outputs}

    def _page_out(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Give back the blobs' pages after a call of new shapes: what was packed out of them lies elsewhere now."""
        if shapes in self._packed or self._compiled is None:
            return
        self._packed.add(shapes)
        for blob in self._compiled.blobs:
            with suppress(OSError, ValueError):  # the system need not: it reads again what is still asked for
                blob.base.madvise(_PAGE_OUT)  # type: ignore[union-attr] # an `mmap`, as `np.memmap` made it

    def close(self) -> None:
        """Let go of the requests, and then of what they run."""
        self._requests = []
        self._compiled = None


class OpenVinoEngine(Engine):
    """One component, compiled for every shape."""

    def __init__(self, bundle: Bundle, name: str, key: EngineKey, compiled: _Compiled) -> None:
        super().__init__(name, bundle.component(name), key)
        self._requests = _Requests(self, compiled)

    def _run(self, feeds: Feeds) -> Outputs:
        return self._requests.run(feeds)

    def close(self) -> None:
        super().close()
        self._requests.close()


class OpenVinoProfiledEngine(ProfiledEngine):
    """One component, compiled for one shape."""

    def __init__(self, bundle: Bundle, name: str, key: EngineKey, compiled: _Compiled, profile: Profile) -> None:
        super().__init__(bundle, name, key, (profile,))
        self._requests = _Requests(self, compiled)

    def _run_profile(self, index: int, feeds: Feeds) -> Outputs:  # noqa: ARG002 - there is one
        return self._requests.run(feeds)

    def close(self) -> None:
        super().close()
        self._requests.close()


@dataclass(frozen=True)
class OpenVinoBackend:
    """Compiles to a blob of OpenVINO's: the graph as its CPU plugin rewrote it, and the weights."""

    options: BuildOptions = DEFAULTS
    device: int = 0
    threads: int = 0  # of one call; 0 is OpenVINO's own choice: one for each core
    name: ClassVar[str] = "openvino"
    takes: ClassVar[frozenset[str]] = PROFILE_OPTIONS
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "bf16")

    @property
    def precision(self) -> Precision:
        """What the engines compute in. OpenVINO's own choice would be bf16 wherever the processor has it."""
        return self.options.precision or "fp32"

    def key(self, bundle: Bundle, component: str) -> EngineKey:
        return component_key(
            bundle,
            component,
            backend=self.name,
            version=ov.get_version(),
            device=cpu(),
            precision=self.precision,
            profile=ANY if (profile := self._profile(bundle, component)) is None else profile_text([profile]),
            flags=() if self.precision == "fp32" else (f"waves={CUT}",),
        )

    def obstacle(self) -> str | None:
        return None

    def on_threads(self, threads: int) -> OpenVinoBackend:
        return replace(self, threads=threads)

    def build(self, bundle: Bundle, component: str, folder: Path, report: Report = no_report) -> None:
        report("compiling", 0)
        compiled = self._compile(bundle, component)
        report("storing", 0.5)
        (folder / BLOB).write_bytes(compiled.main.export_model().getbuffer())
        if compiled.waves is not None:
            (folder / WAVES).write_bytes(compiled.waves.export_model().getbuffer())

    def open(self, bundle: Bundle, component: str, folder: Path | None) -> Engine:
        compiled = self._compile(bundle, component) if folder is None else self._import(component, folder)
        key, profile = self.key(bundle, component), self._profile(bundle, component)
        if profile is None:
            return OpenVinoEngine(bundle, component, key, compiled)
        return OpenVinoProfiledEngine(bundle, component, key, compiled, profile)

    def _profile(self, bundle: Bundle, component: str) -> Profile | None:
        """The one shape to compile for; None where none was asked for."""
        if not self.options.chosen & PROFILE_OPTIONS:
            return None
        return the_one_profile(bundle, component, self.options, "an openvino engine holds all shapes or one")

    def _compile(self, bundle: Bundle, component: str) -> _Compiled:
        graph, config = bundle.graph(component), self.config()
        try:
            model = _core().read_model(graph)
            if (profile := self._profile(bundle, component)) is not None:
                model.reshape(_shapes(bundle, component, profile))
            waves = cut_waves(model) if self.precision != "fp32" else None
            return _Compiled(
                _core().compile_model(model, _DEVICE, config),
                None if waves is None else _core().compile_model(waves, _DEVICE, config | _EXACT),
            )
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load {component} from {graph}: {_reason(error)}") from error

    def _import(self, component: str, folder: Path) -> _Compiled:
        config = self.config()
        try:
            main, blob = _imported(folder / BLOB, config)
            if not (folder / WAVES).exists():
                return _Compiled(main, None, (blob,))
            waves, small = _imported(folder / WAVES, config | _EXACT)
            return _Compiled(main, waves, (blob, small))
        except (RuntimeError, OSError, ValueError) as error:  # ValueError: an empty file
            raise EngineError(f"OpenVINO cannot open {component} from {folder}: {_reason(error)}") from error

    def config(self) -> dict[str, Any]:
        """OpenVINO's properties that a component is compiled and opened with.

        Raises:
            EngineError: this processor cannot compute in the precision.
        """
        if self.precision == "bf16" and device.Capability.BF16 not in _capabilities():
            raise EngineError(
                "the openvino engine computes in bf16 where the processor does (AVX512_BF16 or AMX); this one does "
                f"not, it has {', '.join(_capabilities())}: leave out --precision bf16"
            )
        return {
            hint.inference_precision: _TYPES[self.precision],
            hint.performance_mode: hint.PerformanceMode.LATENCY,
            properties.num_streams: 1,  # all cores on one call
            properties.inference_num_threads: self.threads,
        }


def _shapes(bundle: Bundle, component: str, profile: Profile) -> dict[str, ov.PartialShape]:
    """The inputs' shapes, by name; a range where the profile has one."""
    found = {}
    for spec in bundle.component(component).inputs:
        least, _, most = profile.shapes(spec)
        found[spec.name] = ov.PartialShape([ov.Dimension(*ends) for ends in zip(least, most, strict=True)])
    return found


def _imported(file: Path, config: dict[str, Any]) -> tuple[ov.CompiledModel, NDArray[np.uint8]]:
    blob = np.memmap(file, np.uint8, mode="c")  # OpenVINO takes writable memory; no write reaches the file
    return _core().import_model(ov.Tensor(blob, shared_memory=True), _DEVICE, config), blob


@cache
def _core() -> ov.Core:
    return ov.Core()


def _capabilities() -> list[str]:
    found: list[str] = _core().get_property(_DEVICE, device.capabilities)
    return found


def _reason(error: Exception) -> str:
    """What OpenVINO says, in one line: without the places in its source that it comes through."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return " ".join(said or lines)[:_REASON]


BACKEND = OpenVinoBackend()
