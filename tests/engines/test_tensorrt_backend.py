"""What an engine of TensorRT is tied to: the library is not installed here, so that its version alone stands for it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest

from latentrt.engines.backend import get_backend
from latentrt.engines.bundle import Bundle
from latentrt.engines.key import EngineKey
from latentrt.engines.options import BuildOptions
from latentrt.engines.trt import cuda

MODULE = "latentrt.engines.tensorrt_backend"
GPU = cuda.Gpu("NVIDIA L4", "sm89", "13.0")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The backend's module, over a library that has a version and no more; a GPU that nothing is run on."""
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.4.0.106"))
    monkeypatch.setattr(cuda, "no_gpu", lambda device: None)
    monkeypatch.setattr(cuda, "find_gpu", lambda device: GPU)
    sys.modules.pop(MODULE, None)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


def key(bundle: Bundle, **options: object) -> EngineKey:
    return get_backend("tensorrt", BuildOptions(**options)).key(bundle, "unet")


@pytest.mark.usefixtures("library")
def test_an_engine_is_for_the_very_gpu(opened: Bundle) -> None:
    assert (key(opened).backend_version, key(opened).device) == ("11.4.0.106", "NVIDIA L4 sm89 CUDA 13.0")


@pytest.mark.usefixtures("library")
def test_a_compatible_one_is_for_other_gpus_and_not_for_other_versions(opened: Bundle) -> None:
    found = key(opened, compatible=True)
    assert (found.backend_version, found.device) == ("11.4.0.106", "sm80 and later")
    assert "compatible" in found.flags


@pytest.mark.usefixtures("library")
def test_a_compatible_one_says_which_gpu_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "find_gpu", lambda device: cuda.Gpu("NVIDIA T4", "sm75", "13.0"))
    backend = get_backend("tensorrt", BuildOptions(compatible=True))
    assert backend.obstacle() == "this GPU is sm75, the engine is for sm80 and later"
