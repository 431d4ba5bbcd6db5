"""Stands in for `triton_python_backend_utils`, whose C++ half is in Triton's own process alone and cannot be imported.

The tests marked `full` have the real one, in a real tritonserver.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from support.serving import PATIENCE

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class TritonError:
    INTERNAL, INVALID_ARG, UNAVAILABLE, CANCELLED = "INTERNAL", "INVALID_ARG", "UNAVAILABLE", "CANCELLED"

    def __init__(self, words: str, code: str) -> None:
        self.words, self.code = words, code


class InferenceResponse:
    def __init__(self, output_tensors: Iterable[Tensor], error: TritonError | None = None) -> None:
        self.outputs = {one.name(): one.as_numpy() for one in output_tensors}
        self.error = error


class MetricFamily:
    """`told` holds the value of each figure, by name and labels."""

    COUNTER, GAUGE = "COUNTER", "GAUGE"
    told: ClassVar[dict[tuple[str, frozenset[tuple[str, str]]], float]] = {}

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name = name

    def Metric(self, labels: dict[str, str]) -> Metric:  # noqa: N802 - Triton's name
        return Metric((self.name, frozenset(labels.items())))


class Metric:
    def __init__(self, key: tuple[str, frozenset[tuple[str, str]]]) -> None:
        self._key = key

    def increment(self, value: float) -> None:
        MetricFamily.told[self._key] = MetricFamily.told.get(self._key, 0.0) + value


class Request:
    """A request and its sender: `is_cancelled` is what the test says, `answer` what was sent, once."""

    def __init__(self, wanted: Iterable[str] = ("image", "seed"), **columns: list[Any]) -> None:
        kinds = {"prompt": object, "sampler": object, "guidance_scale": np.float32}
        self._inputs = [Tensor(name, np.array(value, kinds.get(name, np.uint64))) for name, value in columns.items()]
        self._wanted = set(wanted)
        self.cancelled = False
        self._sent: list[InferenceResponse] = []
        self._arrived = threading.Event()

    def request_id(self) -> str:
        return ""

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def requested_output_names(self) -> set[str]:
        return self._wanted

    def get_response_sender(self) -> Request:
        return self

    def is_cancelled(self) -> bool:
        return self.cancelled

    def send(self, response: InferenceResponse, flags: int) -> None:
        assert flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self._sent.append(response)
        self._arrived.set()

    @property
    def answered(self) -> bool:
        return self._arrived.is_set()

    @property
    def answer(self) -> InferenceResponse:
        assert self._arrived.wait(PATIENCE)
        [response] = self._sent
        return response
