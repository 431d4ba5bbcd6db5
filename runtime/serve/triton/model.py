"""What Triton's Python backend calls. One instance holds many requests: `execute` returns before they are answered."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from ..inference_tensors import orders_of, tensors_of
from ..logs import logs_on_stderr
from ..picture_files import Picture
from ..request_ids import REQUEST_ID, request_id
from ..service import Service
from ..ticket import Ticket
from .exchange import Exchange
from .figures import Figures
from .host import Host
from .parameters import Parameters

ASK_SECONDS = 0.05  # between two looks at whether a client called its request off
TELL_SECONDS = 1.0  # between two times that Triton is told of the figures: some change while no request ends


class TritonPythonModel:
    """One instance: the loop of one bundle, on one GPU or on the processor.

    Triton calls `execute` for one request after another. Each is taken in, or refused, at once, and answered later
    through its response sender, which the default transaction policy allows as well as the decoupled one.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the engines; Triton's `args` say where the model lies, and what config.pbtxt holds.

        Raises:
            LatentrtError: a parameter is wrong, or the engines do not open. Triton calls the model unavailable then.
        """
        self._backend = importlib.import_module("triton_python_backend_utils")
        version = Path(args["model_repository"]) / args["model_version"]
        told = json.loads(args["model_config"])["parameters"]
        parameters = Parameters.from_words({name: value["string_value"] for name, value in told.items()})
        device = int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else 0
        bundle, settings = parameters.open_bundle(version), parameters.settings(args["model_name"])
        service = Service(bundle, settings, parameters.opening(version, device))
        figures = Figures(self._backend, service.metrics.registry, args["model_instance_name"])
        with ExitStack() as stack:
            stack.enter_context(logs_on_stderr())
            self._host = Host(service)
            self._host.open()
            stack.callback(self._host.close)
            self._host.repeat(figures.tell, TELL_SECONDS)
            self._open = stack.pop_all()

    def execute(self, requests: Sequence[Any]) -> None:
        """Take requests in; returns at once."""
        for request in requests:
            self._host.begin(self._answered(Exchange(self._backend, request)))

    def finalize(self) -> None:
        """Finish what is under way, and close the engines."""
        self._open.close()

    async def _answered(self, exchange: Exchange) -> None:
        REQUEST_ID.set(request_id(exchange.id.encode()))
        service = self._host.service
        try:
            ticket = service.submit(orders_of(exchange.tensors, service.settings))
            pictures = await _drawn(ticket, exchange)
            outputs = await service.pool.run(partial(tensors_of, pictures, exchange.wanted))
            await service.pool.run(partial(exchange.answer, outputs))
        except Exception as error:
            exchange.fail(error)


async def _drawn(ticket: Ticket, exchange: Exchange) -> list[Picture]:
    """The pictures; a request that its client called off frees its rows before the next step."""
    drawing = asyncio.ensure_future(ticket.pictures())
    while not (await asyncio.wait({drawing}, timeout=ASK_SECONDS))[0]:
        if exchange.cancelled:
            ticket.cancel()
    return drawing.result()
