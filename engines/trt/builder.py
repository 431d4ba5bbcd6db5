"""ONNX graph -> plan: parse, configure, build. Networks are strongly typed: the graph's own types are the precision."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backend import Report
from ..errors import EngineError
from ..options import BuildOptions
from ..profile import Profile
from ..tensor import TensorSpec
from .family import Family
from .interruption import held_back
from .log import Log, make_log, reason
from .progress import Progress, make_monitor
from .timing_cache import timed


@dataclass(frozen=True)
class PlanRequest:
    """What to compile: a graph in its precision, for which shapes, with which options, for which GPUs.

    Attributes:
        component: its name, for messages.
        graph: the ONNX file; a static one where `profiles` is a single static profile.
        inputs: of the component.
        full_precision: sums are fp32; otherwise TF32 may take part in what the graph leaves in fp32.
        targets: architectures such as "sm89"; none is the GPU that is current.
        timing: the file of measured kernels; None where the library measures nothing.
    """

    component: str
    graph: Path
    inputs: Sequence[TensorSpec]
    profiles: Sequence[Profile]
    options: BuildOptions
    full_precision: bool
    targets: Sequence[str]
    timing: Path | None


def build_plan(family: Family, request: PlanRequest, report: Report) -> memoryview:
    """The bytes of the plan.

    Raises:
        EngineError: the library cannot parse or compile the graph; it says what the library says.
    """
    log, progress = make_log(family.module), Progress(report)
    with held_back(progress.stop):  # ends a build at its next step; the parser cannot be stopped
        plan = _plan(family, request, log, progress)
    if progress.stopped is not None:
        raise progress.stopped
    if plan is None:
        raise EngineError(f"{family.name} cannot compile {request.component}: {reason(log)}")
    return memoryview(plan)


def _plan(family: Family, request: PlanRequest, log: Log, progress: Progress) -> Any:
    """The library's memory with the plan; None where it failed, or was stopped."""
    trt = family.module
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # pybind's word for a null pointer
        raise EngineError(f"{family.name} cannot build here: {reason(log)}") from error
    network = builder.create_network(_strongly_typed(trt))
    _parse(family, network, log, request)
    _let_attention_decompose(trt, network)
    config = builder.create_builder_config()
    configure(trt, config, request)
    _add_profiles(builder, network, config, request)
    monitor = make_monitor(trt, progress)  # the config holds no reference of its own
    config.progress_monitor = monitor
    with nullcontext() if request.timing is None else timed(config, request.timing):
        return None if progress.stopped else builder.build_serialized_network(network, config)


def _strongly_typed(trt: Any) -> int:
    """The flag of TensorRT 10; in 11 every network is strongly typed, and the flag says nothing more."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(family: Family, network: Any, log: Log, request: PlanRequest) -> None:
    parser = family.module.OnnxParser(network, log)
    if parser.parse_from_file(str(request.graph)):
        return
    said = _parser_error(parser.get_error(0)) if parser.num_errors else reason(log)
    raise EngineError(f"{family.name} cannot read the graph of {request.component}: {said}")


def _parser_error(error: Any) -> str:
    return f"node {error.node_name()} ({error.node_operator()}): {' '.join(error.desc().split())[:300]}"


def _let_attention_decompose(trt: Any, network: Any) -> None:
    """Allow attention that no fused kernel takes (a head of 512, free dimensions in fp32) to become several kernels."""
    kind = getattr(trt.LayerType, "ATTENTION_INPUT", None)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if kind is not None and layer.type == kind:
            layer.__class__ = trt.IAttentionInputLayer  # the bindings give every layer as its base class
            layer.attention.decomposable = True


def configure(trt: Any, config: Any, request: PlanRequest) -> None:
    """Put what is asked for into the library's builder configuration."""
    options = request.options
    if request.full_precision:
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default: 10 bits of mantissa would be no fp32
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    if options.refittable:
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.weight_streaming:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if (
        options.compatible
    ):  # of GPUs; other versions would need their host code in the plan, or the lean runtime of ours
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if request.targets:
        config.num_compute_capabilities = len(request.targets)
        for index, target in enumerate(request.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index)


def _add_profiles(builder: Any, network: Any, config: Any, request: PlanRequest) -> None:
    free = {network.get_input(i).name for i in range(network.num_inputs) if -1 in tuple(network.get_input(i).shape)}
    for profile in request.profiles if free else ():
        optimization = builder.create_optimization_profile()
        for spec in request.inputs:
            if spec.name in free:
                optimization.set_shape(spec.name, *profile.shapes(spec))
        if config.add_optimization_profile(optimization) < 0:
            raise EngineError(f"{request.component} takes no shapes of {profile}")
