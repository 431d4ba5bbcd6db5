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
        from openvino import opset13, properties
        from openvino.properties import device, hint
except ImportError as error:
    raise EngineError("the openvino engine needs OpenVINO: pip install 'latentrt[openvino]'") from error

BLOB = "engine.blob"
WAVES = "waves.blob"
_DEVICE = "CPU"
_TYPES = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}
_EXACT = {hint.inference_precision: ov.Type.f32}
_WAVES = {"Sin", "Cos"}
_CUT = 1  # raise it whenever `_cut_waves` gives another model than before: it is in the keys of what it went into
_NETWORK = {"Convolution", "MatMul"}  # waves of what a network computed are the network's own
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


class OpenVinoEngine(Engine):
    """One component, compiled by OpenVINO."""

    def __init__(self, bundle: Bundle, name: str, key: EngineKey, compiled: _Compiled) -> None:
        super().__init__(name, bundle.component(name), key)
        models = [compiled.main] if compiled.waves is None else [compiled.main, compiled.waves]
        self._check_names(models)
        self._compiled: _Compiled | None = compiled
        self._requests = [model.create_infer_request() for model in models]
        self._taken = [{name for port in model.inputs for name in port.names} for model in models]

    def _check_names(self, models: list[ov.CompiledModel]) -> None:
        taken = {name for model in models for port in model.inputs for name in port.names}
        given = {name for port in models[0].outputs for name in port.names}
        for kind, specs, names in (("input", self.inputs, taken), ("output", self.outputs, given)):
            for spec in specs:
                if spec.name not in names:
                    raise EngineError(f"OpenVINO cannot load {self.name}: its graph has no {kind} {spec.name!r}")

    def _run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        given = dict(feeds)
        try:
            for request, taken in reversed(list(zip(self._requests, self._taken, strict=True))):
                # copies both ways, so nothing of OpenVINO's is shared
                results = request.infer({name: array for name, array in given.items() if name in taken})
                given |= {name: array for port, array in results.items() for name in port.names}
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed in {self.name}: {_reason(error)}") from error
        return {spec.name: given[spec.name] for spec in self.outputs}

    def close(self) -> None:
        super().close()
        self._requests = []
        self._compiled = None


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
            flags=() if self.precision == "fp32" else (f"waves={_CUT}",),
        )

    def obstacle(self) -> str | None:
        return None

    def build(self, bundle: Bundle, component: str, folder: Path, report: Report = no_report) -> None:
        report("compiling", 0)
        compiled = self._compile(bundle, component)
        report("storing", 0.5)
        (folder / BLOB).write_bytes(compiled.main.export_model().getbuffer())
        if compiled.waves is not None:
            (folder / WAVES).write_bytes(compiled.waves.export_model().getbuffer())

    def open(self, bundle: Bundle, component: str, folder: Path | None) -> Engine:
        compiled = self._compile(bundle, component) if folder is None else self._import(component, folder)
        return OpenVinoEngine(bundle, component, self.key(bundle, component), compiled)

    def _compile(self, bundle: Bundle, component: str) -> _Compiled:
        graph, config = bundle.graph(component), self.config()
        try:
            model = _core().read_model(graph)
            waves = _cut_waves(model) if self.precision != "fp32" else None
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
        }


def _imported(file: Path, config: dict[str, Any]) -> tuple[ov.CompiledModel, NDArray[np.uint8]]:
    blob = np.memmap(file, np.uint8, mode="c")  # OpenVINO takes writable memory; no write reaches the file
    return _core().import_model(ov.Tensor(blob, shared_memory=True), _DEVICE, config), blob


def _cut_waves(model: ov.Model) -> ov.Model | None:
    """Take the sines and cosines of the timestep out of a model; gives the model of them, whose outputs it then takes.

    Told to compute in bf16, OpenVINO rounds the angle: above 256 to whole even numbers. PyTorch computes the
    timestep's waves in fp32 whatever the rest is in. A full-size UNet is 0.015 from it so, and 0.071 without.
    """
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() in _WAVES]
    before = {name: kind for node in nodes for name, kind in _ancestors(node).items()}
    if not nodes or set(before.values()) & _NETWORK:
        return None
    fed = []
    for index, node in enumerate(nodes):
        outside = opset13.parameter(node.get_output_partial_shape(0), ov.Type.f32)
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(outside.output(0))
        for port in (node.output(0), outside.output(0)):
            port.get_tensor().set_names({f"wave{index}"})
        fed.append(outside)
    needed = [source for source in model.get_parameters() if source.get_friendly_name() in before]
    model.add_parameters(fed)
    for source in needed:
        users = [target.get_node().get_friendly_name() for target in source.output(0).get_target_inputs()]
        if all(user in before for user in users):
            model.remove_parameter(source)
    model.validate_nodes_and_infer_types()
    return ov.Model([opset13.result(node.output(0)) for node in nodes], needed, "waves")


def _ancestors(node: ov.Node) -> dict[str, str]:
    """Type by name of a node and all that it is computed from."""
    found: dict[str, str] = {}
    open_nodes = [node]
    while open_nodes:
        one = open_nodes.pop()
        if one.get_friendly_name() not in found:
            found[one.get_friendly_name()] = one.get_type_name()
            open_nodes += [port.get_source_output().get_node() for port in one.inputs()]
    return found


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
