"""One request of Triton's Python backend: its tensors, and the one answer that it gets, from whichever thread."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.errors import EngineError, InputError, LatentrtError, NanPictureError

from ..errors import CalledOffError, ServeError
from ..inference_tensors import INPUTS, OUTPUTS, Tensor

DEFECT = "the model made a mistake; Triton's log has more"
_CODES: tuple[tuple[type[LatentrtError], str], ...] = (
    (InputError, "INVALID_ARG"),
    (NanPictureError, "INTERNAL"),
    (CalledOffError, "CANCELLED"),
    (ServeError, "UNAVAILABLE"),
    (EngineError, "UNAVAILABLE"),
)

log = logging.getLogger("latentrt.serve")


class Exchange:
    """A request, read at once: its memory is Triton's. `backend` is the module `triton_python_backend_utils`.

    Attributes:
        id: what the client calls it, or "".
        tensors: the inputs, flat, in the datatypes that config.pbtxt announces.
        wanted: the outputs that were asked for.
    """

    def __init__(self, backend: Any, request: Any) -> None:
        self._backend, self._sender = backend, request.get_response_sender()
        self.id: str = request.request_id()
        self.tensors: dict[str, Tensor] = {one.name(): _read(one) for one in request.inputs()}
        asked = set(request.requested_output_names())
        self.wanted = [name for name in OUTPUTS if name in asked]

    @property
    def cancelled(self) -> bool:
        """Whether the client called it off, as far as Triton knows."""
        return bool(self._sender.is_cancelled())

    def answer(self, outputs: Mapping[str, tuple[str, NDArray[Any]]]) -> None:
        """Send the outputs. Nothing may be sent after it."""
        tensors = [self._backend.Tensor(name, np.ascontiguousarray(array)) for name, (_, array) in outputs.items()]
        self._send(self._backend.InferenceResponse(output_tensors=tensors))

    def fail(self, error: Exception) -> None:
        """Send an error in its place; of a defect the log tells more than the client."""
        code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
        if code is None:
            log.error("a defect", exc_info=error)
        kinds, words = self._backend.TritonError, DEFECT if code is None else str(error)
        told = kinds(words, getattr(kinds, code or "INTERNAL"))
        self._send(self._backend.InferenceResponse(output_tensors=[], error=told))

    def _send(self, response: Any) -> None:
        self._sender.send(response, flags=self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _read(tensor: Any) -> Tensor:
    name: str = tensor.name()
    values: list[Any] = tensor.as_numpy().ravel().tolist()
    return INPUTS[name].datatype, values
