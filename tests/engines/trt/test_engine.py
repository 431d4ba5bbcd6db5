"""What an engine gives back, and when it may be used: as far as that needs no GPU."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from latentrt.engines.errors import EngineError
from latentrt.engines.trt import cuda, memory
from latentrt.engines.trt.engine import TensorRtEngine


class Part:
    """Something that is given back, and cannot be if it `fails`."""

    def __init__(self, name: str, given_back: list[str], *, fails: bool = False) -> None:
        self.name, self.given_back, self.fails = name, given_back, fails

    def close(self) -> None:
        self.given_back.append(self.name)
        if self.fails:
            raise EngineError(f"{self.name} cannot be given back")


def engine(parts: list[Part]) -> TensorRtEngine:
    """One whose parts stand for those that only a GPU gives."""
    made = TensorRtEngine.__new__(TensorRtEngine)
    made.name, made._closed, made._device, made._resources = "unet", False, 0, ExitStack()
    for part in parts:
        made._resources.callback(part.close)
    return made


def test_a_gpu_that_is_gone_keeps_nothing_from_being_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(device: int) -> None:
        raise EngineError(f"cudaSetDevice failed: no GPU {device}")

    monkeypatch.setattr(cuda, "use", gone)
    given_back: list[str] = []
    closing = engine([Part("plan", given_back), Part("stream", given_back, fails=True)])
    with pytest.raises(EngineError):
        closing.close()
    assert given_back == ["stream", "plan"]
    closing.close()
    assert given_back == ["stream", "plan"]


def test_a_context_that_fails_keeps_no_other_from_being_given_back() -> None:
    given_back: list[str] = []
    closing = engine([])
    contexts: dict[int, Any] = {index: Part(f"{index}", given_back, fails=True) for index in range(2)}
    closing._contexts = contexts
    with pytest.raises(EngineError):
        closing._close_contexts()
    assert sorted(given_back) == ["0", "1"]
    assert closing._contexts == {}


def test_no_room_on_the_host_gives_the_gpu_s_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[str] = []

    def full(size: int) -> Part:
        raise EngineError(f"no {size} bytes to pin")

    monkeypatch.setattr(memory, "DeviceMemory", lambda size: Part("GPU", given_back))
    monkeypatch.setattr(memory, "PinnedMemory", full)
    for buffer in (memory.InputBuffer, memory.OutputBuffer):
        with pytest.raises(EngineError, match="no 8 bytes to pin"):
            buffer(8)
    assert given_back == ["GPU", "GPU"]
