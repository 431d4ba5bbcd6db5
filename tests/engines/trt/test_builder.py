"""What options become in the library's own configuration: the real one, which needs no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latentrt.engines.options import BuildOptions
from latentrt.engines.tensorrt_rtx_backend import BACKEND
from latentrt.engines.trt.builder import PlanRequest, configure
from latentrt.engines.trt.log import make_log

trt = BACKEND.family.module


def configured(*, full_precision: bool = False, targets: tuple[str, ...] = (), **options: Any) -> Any:
    log = make_log(trt)
    builder = trt.Builder(log)
    config = builder.create_builder_config()
    request = PlanRequest(
        component="unet",
        graph=Path("unet.onnx"),
        inputs=(),
        profiles=(),
        options=BuildOptions(**options),
        full_precision=full_precision,
        targets=targets,
        timing=None,
    )
    configure(trt, config, request)
    return config, builder, log  # the later ones must outlive the first


def test_a_plan_for_other_gpus_is_for_one_version() -> None:
    """A version compatible one holds host code, or loads only beside the lean runtime of the version that built it."""
    config, *_ = configured(compatible=True)
    assert not config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    assert not config.get_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    # TensorRT for RTX takes no hardware_compatibility_level: its plans name their architectures


def test_nothing_is_set_that_was_not_asked_for() -> None:
    config, *_ = configured()
    names = ("VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "REFIT", "WEIGHT_STREAMING")
    assert not any(config.get_flag(getattr(trt.BuilderFlag, name)) for name in names)
    assert config.get_flag(trt.BuilderFlag.TF32)


@pytest.mark.parametrize(("option", "flag"), [("refittable", "REFIT"), ("weight_streaming", "WEIGHT_STREAMING")])
def test_an_option_is_a_flag(option: str, flag: str) -> None:
    config, *_ = configured(**{option: True})
    assert config.get_flag(getattr(trt.BuilderFlag, flag))


def test_fp32_is_not_tf32() -> None:
    config, *_ = configured(full_precision=True)
    assert not config.get_flag(trt.BuilderFlag.TF32)


def test_targets_and_level_are_passed_on() -> None:
    config, *_ = configured(targets=("sm86", "sm120"), opt_level=2)
    assert config.builder_optimization_level == 2
    assert config.num_compute_capabilities == 2
    found = [config.get_compute_capability(index) for index in range(2)]
    assert found == [trt.ComputeCapability.SM86, trt.ComputeCapability.SM120]


def test_without_a_target_the_library_looks_at_the_gpu_itself() -> None:
    config, *_ = configured(targets=BACKEND._targets())  # asks for no GPU: the build does
    assert config.num_compute_capabilities == 1
    assert config.get_compute_capability(0) == trt.ComputeCapability.CURRENT
