"""OpenVINO on the CPU: runs a bundle's graphs as they are, or as compiled once and stored; in fp32 or bf16."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from .options import DEFAULTS, BuildOptions
from .tensor import Feeds

_CONVERTER = "openvino.tools.ovc"


@contextmanager
def _unreported() -> Iterator[None]:
    """Keep `import openvino` from reporting itself to Intel, which it does by importing its converter of models.

    OpenVINO takes the converter for absent. One that someone else imported stays; one that someone imports later works.
    """
    if _CONVERTER in sys.modules:
        yield
        return
    sys.modules[_CONVERTER] = None  # type: ignore[assignment] # how Python says that a module must not be found
    try:
        yield
    finally:
        del sys.modules[_CONVERTER]


try:
    with _unreported():
        import openvino as ov
        from openvino import properties
        from openvino.properties import device, hint
except ImportError as error:
    raise EngineError("the openvino engine needs OpenVINO: pip install 'latentrt[openvino]'") from error

BLOB = "engine.blob"
_DEVICE = "CPU"
_TYPES = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}
_REASON = 300  # characters of OpenVINO's own words; it may list a whole graph


class OpenVinoEngine(Engine):
    """One component, compiled by OpenVINO. `blob` is the memory it was imported from.

    OpenVINO packs weights for the shapes of a call when it first sees them, out of that memory, and does not hold it:
    let go of before the engine, it ends the process.
    """

    def __init__(
        self, bundle: Bundle, name: str, key: EngineKey, compiled: ov.CompiledModel, blob: NDArray[np.uint8] | None
    ) -> None:
        super().__init__(name, bundle.component(name), key)
        self._check_names(compiled)
        self._request: ov.InferRequest | None = compiled.create_infer_request()
        self._blob = blob

    def _check_names(self, compiled: ov.CompiledModel) -> None:
        try:
            for spec in self.inputs:
                compiled.input(spec.name)
            for spec in self.outputs:
                compiled.output(spec.name)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load {self.name}: {_reason(error)}") from error

    def _run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        assert self._request is not None
        try:
            results = self._request.infer(dict(feeds))  # copies both ways, so nothing of OpenVINO's is shared
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed in {self.name}: {_reason(error)}") from error
        return {spec.name: results[spec.name] for spec in self.outputs}

    def close(self) -> None:
        super().close()
        self._request = None
        self._blob = None


@dataclass(frozen=True)
class OpenVinoBackend:
    """Compiles to a blob of OpenVINO's: the graph as its CPU plugin rewrote it, and the weights."""

    options: BuildOptions = DEFAULTS
    device: int = 0
    name: ClassVar[str] = "openvino"
    takes: ClassVar[frozenset[str]] = frozenset()
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
            profile="any",
        )

    def obstacle(self) -> str | None:
        return None

    def build(self, bundle: Bundle, component: str, folder: Path, report: Report = no_report) -> None:
        report("compiling", 0)
        compiled = self._compile(bundle, component)
        report("storing", 0.5)
        (folder / BLOB).write_bytes(compiled.export_model().getbuffer())

    def open(self, bundle: Bundle, component: str, folder: Path | None) -> Engine:
        compiled, blob = (self._compile(bundle, component), None) if folder is None else self._import(component, folder)
        return OpenVinoEngine(bundle, component, self.key(bundle, component), compiled, blob)

    def _compile(self, bundle: Bundle, component: str) -> ov.CompiledModel:
        graph, config = bundle.graph(component), self.config()
        try:
            return _core().compile_model(graph, _DEVICE, config)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load {component} from {graph}: {_reason(error)}") from error

    def _import(self, component: str, folder: Path) -> tuple[ov.CompiledModel, NDArray[np.uint8]]:
        config = self.config()
        try:
            blob = np.memmap(folder / BLOB, np.uint8, mode="c")  # OpenVINO takes writable memory; no write reaches it
            return _core().import_model(ov.Tensor(blob, shared_memory=True), _DEVICE, config), blob
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
        }


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
